"""Experts on 2, 4 and 8 processes against all of them on one."""

import subprocess
import sys

import numpy as np
import paddle
import pytest

from ernie5.config.schema import MoEConfig
from ernie5.layers.dispatcher import LocalDispatcher
from ernie5.layers.experts import Experts
from ernie5.ops.router import Routing
from tests.parallel import experts as program
from tests.parallel.experts import CASES, EXPERTS, HIDDEN, WIDTH

pytestmark = pytest.mark.multiproc


def run(count: int, dispatcher: str, folder) -> list[dict[str, np.ndarray]]:
    command = [sys.executable, program.__file__, str(count), dispatcher, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    return [dict(np.load(folder / f"rank_{rank}.npz")) for rank in range(count)]


@pytest.fixture(scope="module", params=[2, 4, 8])
def spread(request, tmp_path_factory) -> list[dict[str, np.ndarray]]:
    return run(request.param, "all_to_all", tmp_path_factory.mktemp("experts"))


@pytest.fixture(scope="module", params=[2, 4])
def by_deep_ep(request, tmp_path_factory) -> list[dict[str, np.ndarray]]:
    return run(request.param, "deep_ep", tmp_path_factory.mktemp("deep_ep"))


@pytest.mark.parametrize("name", CASES)
def test_deep_ep_is_what_one_process_computes(by_deep_ep, name):
    """Over a buffer of its calls, whose rows are not numbers before they are waited for."""
    assert_same_as_one_process(by_deep_ep, name)


@pytest.mark.parametrize("name", CASES)
def test_it_is_what_one_process_computes(spread, name):
    assert_same_as_one_process(spread, name)


def assert_same_as_one_process(spread, name):
    layer = Experts(HIDDEN, MoEConfig(num_experts=EXPERTS, num_experts_per_tok=1, moe_intermediate_size=WIDTH), 0.1)
    for parameter, value in zip((layer.gate_up_proj, layer.down_proj), program.weights(), strict=True):
        parameter.set_value(value)
    for rank, found in enumerate(spread):
        states, ids, weights, grad = map(paddle.to_tensor, program.given(name, rank))
        states.stop_gradient = weights.stop_gradient = False
        if not len(states):
            assert found[f"{name}/output"].shape == (0, HIDDEN)
            continue
        output = LocalDispatcher(EXPERTS).run(states, Routing(ids, weights, None), layer)
        output.backward(grad)
        for key, value in {"output": output, "states": states.grad, "weights": weights.grad}.items():
            np.testing.assert_allclose(found[f"{name}/{key}"], value.numpy(), rtol=1e-5, atol=1e-5, err_msg=key)
    for key, parameter in {"gate_up": layer.gate_up_proj, "down": layer.down_proj}.items():
        together = np.concatenate([found[f"{name}/{key}"] for found in spread])  # of the tokens of all ranks
        np.testing.assert_allclose(together, parameter.grad.numpy(), rtol=1e-5, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", CASES)
def test_a_row_goes_at_most_once_to_each_process(spread, name):
    """Counted at the wire: there and back rows, there ids and weights of the choices, and one count a process."""
    size, (_, top_k, _) = len(spread), CASES[name]
    travels = np.zeros([size, size], int)
    for rank in range(size):
        owners = program.given(name, rank)[1] // (EXPERTS // size)
        for to in range(size):
            travels[rank, to] = (owners == to).any(-1).sum() if to != rank else 0
    for rank, found in enumerate(spread):
        there, back = travels[rank].sum(), travels[:, rank].sum()
        expected = (there + back) * HIDDEN * 4 + there * top_k * (8 + 4) + (size - 1) * 8
        assert found[f"{name}/bytes"] == expected
