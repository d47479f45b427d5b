"""The compiled experts against their definition, a loop over rows in float64 and central differences."""

import os
import subprocess
import sys

import numpy as np
import paddle
import pytest

from ernie5.ops import backend
from ernie5.ops.moe import expert_ffn, moe_ffn
from tests.finite_differences import numeric_gradient
from tests.tolerances import tolerance

pytest.importorskip("ernie5_ops")
COUNTS = {
    "one row": [0, 1, 0],
    "empty experts": [3, 0, 9, 0, 1, 0],
    "all to one expert": [0, 40, 0],
    "more than a block": [500, 0, 17],
    "no row": [0, 0],
    "one expert": [5],
}
counts = pytest.mark.parametrize("name", COUNTS)
SIZES = [(4, 3), (32, 16), (17, 70), (64, 128)]  # hidden, ffn
SUMS = {"rtol": 1e-4, "atol": 1e-4}  # float32 sums of products of sums, of up to 500 rows


@pytest.fixture(autouse=True)
def compiled():
    with backend.using("native"):
        assert backend.is_native("expert_ffn") and backend.is_native("moe_ffn")
        yield


def matrices(experts: int, hidden: int, ffn: int, rng) -> list[np.ndarray]:
    gate_up = rng.normal(size=[experts, hidden, 2 * ffn]) / np.sqrt(hidden)
    return [gate_up, rng.normal(size=[experts, ffn, hidden]) / np.sqrt(ffn)]


def grouped(name: str, hidden: int, ffn: int) -> list[np.ndarray]:
    """rows, row_weights, gate_up_proj, down_proj."""
    rng, slots = np.random.default_rng(0), sum(COUNTS[name])
    return [rng.normal(size=[slots, hidden]), rng.normal(size=[slots]), *matrices(len(COUNTS[name]), hidden, ffn, rng)]


def routed(tokens: int, top_k: int, experts: int, hidden: int, ffn: int, seed: int = 0):
    """ids and hidden_states, topk_weights, gate_up_proj, down_proj."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, experts, [tokens, top_k])
    arrays = [rng.normal(size=[tokens, hidden]), rng.normal(size=[tokens, top_k]), *matrices(experts, hidden, ffn, rng)]
    return ids, arrays


def loop(rows, row_weights, gate_up, down, experts) -> np.ndarray:
    """A row at a time."""
    output = np.zeros(rows.shape)
    for i, expert in enumerate(experts):
        gate, up = np.split(rows[i] @ gate_up[expert], 2)
        output[i] = row_weights[i] * ((gate / (1 + np.exp(-gate)) * up) @ down[expert])
    return output


def token_loop(ids, states, weights, gate_up, down) -> np.ndarray:
    rows = np.repeat(states, ids.shape[1], axis=0)
    return loop(rows, weights.ravel(), gate_up, down, ids.ravel()).reshape([*ids.shape, states.shape[1]]).sum(1)


def tensors(arrays, dtype="float32", weights_dtype=None) -> list[paddle.Tensor]:
    """With gradients; the second, the weights, may have another dtype."""
    dtypes = [dtype, weights_dtype or dtype, dtype, dtype]
    found = [paddle.to_tensor(array).astype(kind).detach() for array, kind in zip(arrays, dtypes, strict=True)]
    for one in found:
        one.stop_gradient = False
    return found


def run_grouped(name, given) -> paddle.Tensor:
    return expert_ffn(given[0], given[1], paddle.to_tensor(COUNTS[name]), given[2], given[3])


def run_routed(ids, given) -> paddle.Tensor:
    return moe_ffn(given[0], paddle.to_tensor(ids), given[1], given[2], given[3])


def with_gradients(run, given) -> list[np.ndarray]:
    out = run(given)
    cotangent = paddle.to_tensor(np.random.default_rng(9).normal(size=out.shape)).astype(out.dtype)
    grads = paddle.grad([out], given, [cotangent])
    return [one.astype("float64").numpy() for one in (out, *grads)]


@pytest.mark.parametrize("name", [name for name in COUNTS if name != "no row"])  # of none the definition has no product
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_groups_equal_the_definition_with_gradients(name, size, dtype):
    arrays, results = grouped(name, *size), []
    for mode in ("native", "reference"):
        with backend.using(mode):
            results.append(with_gradients(lambda given: run_grouped(name, given), tensors(arrays, dtype)))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, **(SUMS if dtype == "float32" else tolerance(dtype)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tokens", [1, 2, 9, 33, 700])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tokens_equal_the_definition_with_gradients(tokens, size, dtype):
    ids, arrays = routed(tokens, 3, 7, *size)
    results = []
    for mode in ("native", "reference"):
        with backend.using(mode):
            results.append(with_gradients(lambda given: run_routed(ids, given), tensors(arrays, dtype)))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, **(SUMS if dtype == "float32" else tolerance(dtype)))


@counts
def test_without_gradients_groups_equal_a_loop_over_rows(name):
    arrays = grouped(name, 32, 16)
    with paddle.no_grad():
        found = run_grouped(name, tensors(arrays, "float64")).numpy()
    experts = np.repeat(np.arange(len(COUNTS[name])), COUNTS[name])
    np.testing.assert_allclose(found, loop(*arrays, experts), **tolerance("float64"))


def test_every_token_gets_the_work_of_its_own_experts():
    """Expert e gives back its input's numbers times (e + 1): a misrouted row would show."""
    tokens, experts, hidden = 50, 8, 16
    ids = np.random.default_rng(0).permuted(np.tile(np.arange(experts), (tokens, 1)), axis=1)[:, :3]
    states = np.arange(tokens)[:, None] + np.arange(hidden) / hidden
    # gate 40: silu(40) is 40; up: x; so gate * up = 40 x where an input of ones stands beside x.
    gate_up, down = np.zeros([experts, hidden + 1, 2 * hidden]), np.zeros([experts, hidden, hidden + 1])
    gate_up[:, hidden, :hidden] = 40
    gate_up[:, :hidden, hidden:] = np.eye(hidden)
    down[:, :, :hidden] = np.eye(hidden) * (np.arange(experts) + 1)[:, None, None] / 40
    weights = np.ones(ids.shape)
    given = tensors([np.concatenate([states, np.ones([tokens, 1])], 1), weights, gate_up, down], "float64")
    found = run_routed(ids, given).numpy()
    np.testing.assert_allclose(found[:, :hidden], states * (ids + 1).sum(1, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize("name", ["empty experts", "all to one expert"])
def test_gradients_of_groups_equal_central_differences(name):
    arrays = grouped(name, 3, 2)
    experts = np.repeat(np.arange(len(COUNTS[name])), COUNTS[name])
    check_gradients(lambda given: run_grouped(name, given), lambda *values: loop(*values, experts), arrays)


def test_gradients_of_tokens_equal_central_differences():
    ids, arrays = routed(5, 2, 4, 3, 2)
    check_gradients(lambda given: run_routed(ids, given), lambda *values: token_loop(ids, *values), arrays)


def check_gradients(run, definition, arrays):
    grads = with_gradients(run, tensors(arrays, "float64"))[1:]
    cotangent = np.random.default_rng(9).normal(size=arrays[0].shape)
    for place, grad in enumerate(grads):

        def objective(value, place=place):
            return float((definition(*arrays[:place], value, *arrays[place + 1 :]) * cotangent).sum())

        np.testing.assert_allclose(grad, numeric_gradient(objective, arrays[place]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("tokens", [1, 60])
def test_bfloat16_equals_the_definition_of_the_rounded_numbers(tokens):
    ids, arrays = routed(tokens, 2, 4, 16, 8)
    given = tensors(arrays, "bfloat16", "float32")
    rounded = [one.astype("float64").numpy() for one in given]
    found = with_gradients(lambda given: run_routed(ids, given), given)
    with backend.using("reference"):
        cotangent = paddle.to_tensor(np.random.default_rng(9).normal(size=[tokens, 16])).astype("bfloat16")
        wide = tensors(rounded, "float64")
        out = run_routed(ids, wide)
        expected = [out, *paddle.grad([out], wide, [cotangent.astype("float64")])]
    for one, other in zip(found, expected, strict=True):
        other = other.numpy()
        np.testing.assert_allclose(one, other, rtol=2e-2, atol=2e-2 * abs(other).max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_token_gives_zero_gradients(dtype):
    ids, arrays = routed(0, 2, 4, 8, 4)
    for result in with_gradients(lambda given: run_routed(ids, given), tensors(arrays, dtype)):
        assert not result.any()
    for result in with_gradients(lambda given: run_grouped("no row", given), tensors(grouped("no row", 8, 4), dtype)):
        assert not result.any()


def test_an_expert_without_tokens_gets_zero_gradients():
    ids, arrays = routed(20, 2, 4, 8, 4)
    grads = with_gradients(lambda given: run_routed(ids % 2 * 3, given), tensors(arrays))[3:]
    for grad in grads:
        assert not grad[1:3].any() and grad[0].any() and grad[3].any()


def test_an_expert_chosen_twice_counts_twice():
    arrays = routed(5, 2, 4, 8, 4)[1]
    ids = np.full([5, 2], 2)
    found = run_routed(ids, tensors(arrays, "float64")).numpy()
    np.testing.assert_allclose(found, token_loop(ids, *arrays), **tolerance("float64"))


def test_a_row_has_the_same_bits_among_few_and_among_many():
    ids, arrays = routed(300, 2, 3, 64, 32)
    with paddle.no_grad():
        together = run_routed(ids, tensors(arrays)).numpy()
        for tokens in (1, 2, 5, 20, 77):
            some = run_routed(ids[:tokens], tensors([arrays[0][:tokens], arrays[1][:tokens], *arrays[2:]])).numpy()
            np.testing.assert_array_equal(some, together[:tokens])


def test_what_is_frozen_has_no_gradient():
    ids, arrays = routed(9, 2, 4, 8, 4)
    given = tensors(arrays)
    given[2].stop_gradient = given[3].stop_gradient = True
    run_routed(ids, given).sum().backward()
    assert given[0].grad is not None and given[1].grad is not None and given[2].grad is None and given[3].grad is None


def test_gradients_reach_below_through_choices_of_topk():
    """Integers that autograd takes for differentiable must not cut the graph."""
    states = paddle.randn([6, 8])
    states.stop_gradient = False
    _, arrays = routed(6, 2, 4, 8, 4)
    weights, ids = paddle.topk(states[:, :4] * 2.0, 2)
    moe_ffn(states * 1.0, ids, weights, *tensors(arrays)[2:]).sum().backward()
    assert states.grad is not None and states.grad.abs().sum() > 0


def test_input_that_is_not_contiguous_is_read_in_its_order():
    ids, arrays = routed(8, 2, 4, 8, 4)
    given = tensors(arrays)
    turned = given[0].t().clone().t()
    np.testing.assert_array_equal(run_routed(ids, [turned, *given[1:]]).numpy(), run_routed(ids, given).numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({3: [4, 4, 9]}, r"down_proj has shape \[4, 4, 9\], expected \[-1, -1, 8\]"),
        ({2: [4, 8, 6]}, r"gate_up_proj has shape \[4, 8, 6\], expected \[4, 8, 8\]"),
        ({1: [6, 3]}, r"topk_weights has shape \[6, 3\], expected \[6, 2\]"),
    ],
)
def test_a_wrong_shape_is_told_in_one_sentence(change, message):
    ids, arrays = routed(6, 2, 4, 8, 4)
    given = [np.zeros(change[place]) if place in change else array for place, array in enumerate(arrays)]
    with pytest.raises(OSError, match=message):
        run_routed(ids, tensors(given))


def test_a_choice_or_a_count_that_cannot_be_is_told_in_one_sentence():
    ids, arrays = routed(6, 2, 4, 8, 4)
    with pytest.raises(OSError, match=r"topk_ids has an id outside of \[0, 4\)"):
        run_routed(ids + 3, tensors(arrays))
    rows = tensors([arrays[0], arrays[1][:, 0], *arrays[2:]])
    for wrong, message in (([1, 2, 3, 1], "sums to 7, but there are 6 rows"), ([7, -1, 0, 0], "a count outside of")):
        with pytest.raises(OSError, match=message):
            expert_ffn(rows[0], rows[1], paddle.to_tensor(wrong), rows[2], rows[3])


def test_matrices_of_another_dtype_are_told_in_one_sentence():
    ids, arrays = routed(6, 2, 4, 8, 4)
    given = tensors(arrays)
    with pytest.raises(OSError, match="down_proj has dtype float64, expected float32"):
        inputs = [given[0], paddle.to_tensor(ids), given[1], given[2], given[3].astype("float64")]
        backend.call("moe_ffn", inputs, True)


@pytest.mark.parametrize("seed", range(20))
def test_any_shape_equals_a_loop_over_rows(seed):
    rng = np.random.default_rng(100 + seed)
    tokens, top_k, experts, hidden, ffn = rng.integers([0, 1, 1, 1, 1], [90, 5, 12, 50, 40]).tolist()
    ids, arrays = routed(tokens, top_k, experts, hidden, ffn, seed)
    found = run_routed(ids, tensors(arrays, "float64")).numpy()
    np.testing.assert_allclose(found, token_loop(ids, *arrays), **tolerance("float64"))


SCRIPT = """
import hashlib, sys, numpy as np, paddle
from ernie5.ops.moe import expert_ffn, moe_ffn
rng = np.random.default_rng(0)
ids = np.where(rng.random([300, 3]) < 0.6, 2, rng.integers(0, 5, [300, 3]))  # the second expert is in both halves
shapes = [300, 32], [300, 3], [5, 32, 48], [5, 24, 32]
given = [paddle.to_tensor(rng.normal(size=shape).astype("float32") / 4, stop_gradient=False) for shape in shapes]
parts = []
for _ in range(2):
    out = moe_ffn(given[0], paddle.to_tensor(ids), *given[1:])
    again = expert_ffn(given[0], given[1][:, 0], paddle.to_tensor([10, 0, 200, 90, 0]), *given[2:])
    parts.append([one.numpy() for one in (out, again, *paddle.grad([out.sum() + again.sum()], given))])
assert all((one == other).all() for one, other in zip(*parts))
np.savez(sys.argv[1], *parts[0])
"""


def test_two_threads_agree_with_one_and_repeat_their_bits(tmp_path):
    for threads in ("1", "2"):
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / threads)], env=environment, check=True)
    one, other = (np.load(tmp_path / f"{threads}.npz") for threads in (1, 2))
    for name in one.files:
        np.testing.assert_allclose(one[name], other[name], **SUMS)


# Paddle's own, of a traced program's backward pass
@pytest.mark.filterwarnings("ignore:Tensor do not have 'place' interface:UserWarning")
def test_it_works_in_a_traced_and_in_a_saved_program(tmp_path):
    ids, arrays = routed(9, 2, 4, 8, 4)
    given = tensors(arrays)

    class Layer(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.gate_up, self.down = (self.create_parameter(one.shape) for one in given[2:])
            self.gate_up.set_value(given[2])
            self.down.set_value(given[3])

        def forward(self, states, ids, weights):
            return moe_ffn(states, ids, weights, self.gate_up, self.down)

    layer, inputs = Layer(), [given[0].detach(), paddle.to_tensor(ids), given[1].detach()]
    expected = layer(*inputs).numpy()
    spec = [
        paddle.static.InputSpec([None, width], dtype, name)
        for width, dtype, name in ((8, "float32", "states"), (2, "int64", "ids"), (2, "float32", "weights"))
    ]
    paddle.jit.save(layer, str(tmp_path / "experts"), input_spec=spec)
    np.testing.assert_array_equal(paddle.jit.load(str(tmp_path / "experts"))(*inputs).numpy(), expected)
    layer(*inputs).sum().backward()
    eager = layer.gate_up.grad.numpy()
    layer.clear_gradients()
    traced = paddle.jit.to_static(layer, full_graph=True)
    out = traced(*inputs)
    out.sum().backward()
    np.testing.assert_array_equal(out.numpy(), expected)
    np.testing.assert_array_equal(layer.gate_up.grad.numpy(), eager)
