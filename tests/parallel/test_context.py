"""Rows on 2 and 4 processes against the plain operator on one."""

import gc
import subprocess
import sys
import weakref

import numpy as np
import paddle
import pytest

from ernie5.ops import backend
from ernie5.ops.attention import Mask, flashmask_attention
from ernie5.parallel.context import ContextParallelAttention, own_tokens
from tests.parallel import context as program
from tests.parallel.context import HEAD_DIM, KV_HEADS, SEQ
from tests.tolerances import tolerance

CASES = list(program.masks())
MODES = [
    "reference",
    pytest.param(
        "native",
        marks=pytest.mark.skipif(not backend.is_native("flashmask_attention"), reason="ernie5_ops is not installed"),
    ),
]


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_processes_share_a_row_and_the_pairs_of_a_causal_mask_equally(degree):
    held = [own_tokens(SEQ, degree, place) for place in range(degree)]
    assert sorted(np.concatenate(held)) == list(range(SEQ))
    assert all((np.diff(positions) > 0).all() for positions in held)
    pairs = {int((positions + 1).sum()) for positions in held}
    assert len(pairs) == 1


def test_a_process_holds_a_chunk_of_the_front_and_its_mirror_image():
    assert own_tokens(16, 4, 1).tolist() == [2, 3, 12, 13]


@pytest.fixture(scope="module", params=MODES)
def mode(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=[2, 4])
def spread(request, mode, tmp_path_factory) -> list[dict[str, np.ndarray]]:
    """What each process found."""
    folder = tmp_path_factory.mktemp("context")
    command = [sys.executable, program.__file__, str(request.param), mode, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    return [dict(np.load(folder / f"rank_{rank}.npz")) for rank in range(request.param)]


def on_one_process(name: str, mode: str) -> dict[str, np.ndarray]:
    *states, grad = map(paddle.to_tensor, program.given(name))
    for state in states:
        state.stop_gradient = False
    with backend.using(mode):
        output = flashmask_attention(*states, program.mask(name))
        output.backward(grad)
    grads = {key: state.grad.numpy() for key, state in zip("qkv", states, strict=True)}
    return {"output": output.numpy(), **grads}


@pytest.mark.multiproc
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_one_process(spread, mode, name):
    for key, whole in on_one_process(name, mode).items():
        for rank, found in enumerate(spread):
            expected = whole[:, own_tokens(SEQ, len(spread), rank)]
            difference = np.abs(found[f"{name}/{key}"] - expected).max() / np.abs(whole).max()
            assert difference < 1e-6, f"{key} of rank {rank}: {difference}"


@pytest.mark.multiproc
@pytest.mark.parametrize("name", CASES)
def test_only_keys_and_values_that_are_seen_travel_once_each_way(spread, name):
    batch, visible = len(program.given(name)[0]), program.mask(name).visible(0, SEQ)
    visible = np.broadcast_to(visible, [batch, SEQ, SEQ])
    held = [own_tokens(SEQ, len(spread), rank) for rank in range(len(spread))]
    travels = np.zeros([len(spread)] * 2, int)  # rows from one to another
    for owner, reader in np.ndindex(travels.shape):
        if owner != reader:
            travels[owner, reader] = visible[:, held[reader]][:, :, held[owner]].any(1).sum()
    row = 2 * KV_HEADS * HEAD_DIM * 4
    for rank, found in enumerate(spread):
        assert found[f"{name}/bytes0"] == found[f"{name}/bytes1"] == travels[rank].sum() * row
        assert found[f"{name}/bytes_back"] == travels[:, rank].sum() * row


@pytest.mark.multiproc
@pytest.mark.parametrize("name", CASES)
def test_a_process_that_has_whole_rows_works_alone(spread, mode, name):
    expected = on_one_process(name, mode)["output"]
    for found in spread:
        np.testing.assert_allclose(found[f"{name}/alone"], expected, **tolerance("float32"))
        assert found[f"{name}/bytes_alone"] == 0


@pytest.mark.multiproc
def test_a_decoder_that_recomputes_is_that_of_one_process(spread, mode):
    with backend.using(mode):
        expected = program.decoder_step(np.arange(SEQ))
    for name, whole in expected.items():
        parts = [found[f"decoder/{name}"] for found in spread]
        if name not in ("output", "states"):  # of parameters: of the tokens of all
            np.testing.assert_allclose(sum(parts), whole, rtol=1e-4, atol=1e-5, err_msg=name)
            continue
        for rank, part in enumerate(parts):
            np.testing.assert_allclose(
                part, whole[:, own_tokens(SEQ, len(spread), rank)], rtol=1e-4, atol=1e-5, err_msg=name
            )


class _LoneGroup:
    """The first of two processes, of whom the other one is not there."""

    nranks, rank = 2, 0


def test_a_plan_is_made_once_for_all_layers_and_goes_with_its_mask(monkeypatch):
    parts, part = [], Mask.part
    monkeypatch.setattr(Mask, "part", lambda mask, *given: parts.append(1) or part(mask, *given))
    monkeypatch.setattr("ernie5.parallel.context._exchanged", lambda rows, *_: rows)
    attend = ContextParallelAttention(_LoneGroup())
    mask = Mask(8, 8, program.documents(2, 4, 2)[None].astype(np.int32))  # each process sees its own tokens alone
    states = paddle.ones([1, 4, 1, HEAD_DIM])
    attend(states, states, states, mask)
    made = len(parts)
    attend(states, states, states, mask)
    assert len(parts) == made > 0
    gone = weakref.ref(mask)
    del mask
    gc.collect()
    assert gone() is None
