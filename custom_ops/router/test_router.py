"""The compiled router against its definition, a loop in NumPy and central differences."""

import os
import subprocess
import sys

import numpy as np
import paddle
import pytest

from ernie5.ops import backend
from ernie5.ops.router import SMALLEST_SUM, route
from tests.finite_differences import numeric_gradient
from tests.tolerances import tolerance

pytest.importorskip("ernie5_ops")
SCALING = 2.5  # as an attribute it is a float, which holds it exactly
both_scores = pytest.mark.parametrize("score", ["softmax", "sigmoid"])
# (tokens, experts, top_k)
SHAPES = [(1, 1, 1), (1, 8, 2), (40, 8, 8), (70, 64, 4), (33, 257, 11), (600, 96, 6)]


@pytest.fixture(autouse=True)
def compiled():
    with backend.using("native"):
        assert backend.is_native("router")
        yield


def inputs(tokens: int, experts: int, masked: int = 0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """logits [tokens, experts], bias and mask [experts]; so many experts are masked."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(experts)
    mask[rng.permutation(experts)[:masked]] = -np.inf
    return rng.normal(0, 2, [tokens, experts]), rng.normal(0, 0.1, experts), mask


def scores_of(logits: np.ndarray, mask: np.ndarray, score: str) -> np.ndarray:
    if score == "sigmoid":
        return 1 / (1 + np.exp(-(logits + mask)))
    exponentials = np.exp(logits + mask - (logits + mask).max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def chosen_by_loop(scores: np.ndarray, bias: np.ndarray, mask: np.ndarray, top_k: int) -> np.ndarray:
    """[tokens, top_k], highest first, of equal ones the lowest id first."""
    values = scores + bias + mask
    return np.array([sorted(range(len(row)), key=lambda e, row=row: (-row[e], e))[:top_k] for row in values])


def weights_of(scores: np.ndarray, ids: np.ndarray) -> np.ndarray:
    chosen = np.take_along_axis(scores, ids, -1)
    return chosen / np.maximum(chosen.sum(-1, keepdims=True), SMALLEST_SUM) * SCALING


def routed(arrays, top_k: int, score: str, dtype: str = "float32"):
    return route(*(paddle.to_tensor(array.astype(dtype)) for array in arrays), top_k, score, SCALING)


@both_scores
@pytest.mark.parametrize("masked", [0, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_routing_equals_a_loop_over_tokens(shape, masked, score):
    tokens, experts, top_k = shape
    masked = min(masked, experts - top_k)
    arrays = [array.astype("float32").astype("float64") for array in inputs(tokens, experts, masked)]
    routing = routed(arrays, top_k, score, "float64")
    scores = scores_of(arrays[0], arrays[2], score)
    ids = chosen_by_loop(scores, *arrays[1:], top_k)
    np.testing.assert_array_equal(routing.topk_ids.numpy(), ids)
    np.testing.assert_allclose(routing.topk_weights.numpy(), weights_of(scores, ids), **tolerance("float64"))
    assert routing.tokens_per_expert.tolist() == np.bincount(ids.flatten(), minlength=experts).tolist()
    narrow = routed(arrays, top_k, score)
    assert narrow.topk_weights.dtype == paddle.float32 and narrow.topk_ids.dtype == paddle.int64
    expected = weights_of(scores, narrow.topk_ids.numpy())
    np.testing.assert_allclose(narrow.topk_weights.numpy(), expected, **tolerance("float32"))


@both_scores
def test_routing_equals_the_definition(score):
    arrays = inputs(200, 64, masked=10)
    found = routed(arrays, 6, score)
    with backend.using("reference"):
        expected = routed(arrays, 6, score)
    np.testing.assert_array_equal(found.topk_ids.numpy(), expected.topk_ids.numpy())
    np.testing.assert_array_equal(found.tokens_per_expert.numpy(), expected.tokens_per_expert.numpy())
    np.testing.assert_allclose(found.topk_weights.numpy(), expected.topk_weights.numpy(), **tolerance("float32"))


@both_scores
@pytest.mark.parametrize("mode", ["native", "reference"])
def test_of_equal_experts_those_with_the_lowest_ids_are_chosen(score, mode):
    logits = np.zeros([3, 20])
    logits[1, [4, 17]] = 1  # one pair above all others, which are equal
    logits[2, 7] = -1
    with backend.using(mode):
        ids = routed((logits, np.zeros(20), np.zeros(20)), 4, score).topk_ids
    assert ids.tolist() == [[0, 1, 2, 3], [4, 17, 0, 1], [0, 1, 2, 3]]


@both_scores
def test_bias_moves_the_choice_and_not_the_weights(score):
    logits, _, mask = inputs(30, 8)
    bias = np.where(np.arange(8) == 5, 10.0, 0.0)
    routing = routed((logits, bias, mask), 2, score, "float64")
    ids = routing.topk_ids.numpy()
    assert (ids[:, 0] == 5).all() and routing.tokens_per_expert[5] == 30
    expected = weights_of(scores_of(logits, mask, score), ids)
    np.testing.assert_allclose(routing.topk_weights.numpy(), expected, **tolerance("float64"))


@both_scores
def test_masked_experts_are_never_chosen_nor_counted(score):
    logits, bias, mask = inputs(50, 8, masked=5)
    routing = routed((logits, bias + np.where(mask < 0, 100, 0), mask), 3, score)
    counts = routing.tokens_per_expert.numpy()
    assert (counts[mask < 0] == 0).all() and (counts[mask == 0] == 50).all()


def gradient(arrays, top_k, score, cotangent, dtype) -> np.ndarray:
    logits, bias, mask = (paddle.to_tensor(array.astype(dtype)) for array in arrays)
    logits.stop_gradient = False
    weights = route(logits, bias, mask, top_k, score, SCALING).topk_weights
    return paddle.grad([weights], [logits], [paddle.to_tensor(cotangent.astype(dtype))])[0].numpy()


@both_scores
@pytest.mark.parametrize("masked", [0, 2])
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 6, 1), (5, 6, 3), (3, 7, 5)], ids=str)
def test_gradient_is_that_of_central_differences(shape, masked, score):
    tokens, experts, top_k = shape
    arrays = inputs(tokens, experts, min(masked, experts - top_k))
    cotangent = np.random.default_rng(1).normal(size=[tokens, top_k])
    ids = chosen_by_loop(scores_of(arrays[0], arrays[2], score), *arrays[1:], top_k)
    expected = numeric_gradient(
        lambda logits: (weights_of(scores_of(logits, arrays[2], score), ids) * cotangent).sum(), arrays[0]
    )
    found = gradient(arrays, top_k, score, cotangent, "float64")
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


@both_scores
@pytest.mark.parametrize("far", [0.0, -40.0], ids=["renormalised", "below the smallest sum"])
def test_gradient_is_the_definition_s(score, far):
    """`far` lowers the logits of the experts that the bias chooses, till their sum does not count.

    Not further, as Paddle's softmax on the CPU takes exponents below -64 for -64.
    """
    logits, bias, mask = inputs(40, 16, masked=2)
    bias[:] = 0
    bias[np.flatnonzero(mask == 0)[:3]] = 10
    logits[:, bias > 0] += far
    cotangent = np.random.default_rng(1).normal(size=[40, 3])
    found = gradient((logits, bias, mask), 3, score, cotangent, "float64")
    with backend.using("reference"):
        expected = gradient((logits, bias, mask), 3, score, cotangent, "float64")
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


def test_bias_and_mask_have_no_gradient():
    logits, bias, mask = (paddle.to_tensor(array, stop_gradient=False) for array in inputs(5, 8))
    route(logits, bias, mask, 2, "softmax", SCALING).topk_weights.sum().backward()
    assert logits.grad is not None and bias.grad is None and mask.grad is None


@both_scores
def test_no_tokens_are_routed_nowhere(score):
    logits = paddle.zeros([0, 8])
    logits.stop_gradient = False
    routing = route(logits, paddle.zeros([8]), paddle.zeros([8]), 3, score)
    assert routing.topk_ids.shape == routing.topk_weights.shape == [0, 3]
    assert routing.tokens_per_expert.tolist() == [0] * 8
    routing.topk_weights.sum().backward()
    assert logits.grad.shape == [0, 8]


def test_logits_that_are_not_contiguous_are_read_in_their_order():
    logits, bias, mask = (paddle.to_tensor(array.astype("float32")) for array in inputs(30, 8))
    turned = logits.transpose([1, 0]).contiguous().transpose([1, 0])
    assert not turned.is_contiguous()
    expected, found = (route(one, bias, mask, 3, "softmax") for one in (logits, turned))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("seed", range(20))
def test_any_shape_gives_the_definition_s_choice_and_gradient(seed):
    rng = np.random.default_rng(seed)
    tokens, experts = (int(size) for size in rng.integers(1, 130, 2))
    top_k = int(rng.integers(1, experts + 1))
    masked = int(rng.integers(0, experts - top_k + 1))
    score = str(rng.choice(["softmax", "sigmoid"]))
    arrays, cotangent = inputs(tokens, experts, masked, seed), rng.normal(size=[tokens, top_k])
    found = routed(arrays, top_k, score, "float64"), gradient(arrays, top_k, score, cotangent, "float64")
    with backend.using("reference"):
        expected = routed(arrays, top_k, score, "float64"), gradient(arrays, top_k, score, cotangent, "float64")
    np.testing.assert_array_equal(found[0].topk_ids.numpy(), expected[0].topk_ids.numpy())
    np.testing.assert_array_equal(found[0].tokens_per_expert.numpy(), expected[0].tokens_per_expert.numpy())
    for one, other in ((found[0].topk_weights, expected[0].topk_weights), (found[1], expected[1])):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("bias", "mask", "top_k", "score", "message"),
    [
        (paddle.zeros([5]), paddle.zeros([4]), 2, "softmax", r"bias has shape \[5\], expected \[4\]"),
        (paddle.zeros([4]), paddle.zeros([4], "float64"), 2, "softmax", "mask has dtype float64, expected float32"),
        (paddle.zeros([4]), paddle.zeros([4]), 5, "softmax", "top_k is 5 of 4 experts"),
        (paddle.zeros([4]), paddle.zeros([4]), 2, "tanh", "score is tanh, expected softmax or sigmoid"),
    ],
)
def test_a_wrong_input_is_told_in_one_sentence(bias, mask, top_k, score, message):
    with pytest.raises(OSError, match=message):
        backend.call("router", [paddle.zeros([3, 4]), bias, mask], top_k, score, 1.0)


class Gate(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([6, 8], default_initializer=paddle.nn.initializer.Normal())
        self.register_buffer("bias", paddle.linspace(0, 0.1, 8))

    def forward(self, x):
        ids, weights, counts = route(paddle.matmul(x, self.weight), self.bias, paddle.zeros([8]), 3, "softmax", SCALING)
        return ids, weights, counts


@pytest.mark.filterwarnings("ignore:Tensor do not have 'place':UserWarning")  # Paddle's own, of its full_like
def test_it_works_in_a_traced_program_with_its_gradients():
    x, layer, results = paddle.randn([9, 6]), Gate(), []
    for forward in (layer, paddle.jit.to_static(layer, full_graph=True)):
        ids, weights, counts = forward(x)
        (weights**2).sum().backward()
        results.append([one.numpy() for one in (ids, weights, counts, layer.weight.grad)])
        layer.clear_gradients()
    assert np.abs(results[0][-1]).max() > 0
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_works_in_a_saved_program_of_any_number_of_tokens(tmp_path):
    layer, x = Gate(), paddle.randn([9, 6])
    expected = [one.numpy() for one in layer(x)]
    paddle.jit.save(layer, str(tmp_path / "gate"), input_spec=[paddle.static.InputSpec([None, 6], "float32")])
    for one, other in zip(paddle.jit.load(str(tmp_path / "gate"))(x), expected, strict=True):
        np.testing.assert_array_equal(one.numpy(), other)


SCRIPT = """
import hashlib, numpy as np, paddle
from ernie5.ops.router import route
rng = np.random.default_rng(0)
logits = paddle.to_tensor(rng.normal(size=[2000, 64]).astype("float32"), stop_gradient=False)
routing = route(logits, paddle.zeros([64]), paddle.zeros([64]), 4, "softmax")
(routing.topk_weights ** 2).sum().backward()
print(hashlib.sha256(b"".join(one.numpy().tobytes() for one in (*routing, logits.grad))).hexdigest())
"""


def test_one_and_two_threads_give_the_same_bits():
    found = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(found) == 1 and len(found.pop()) == 65
