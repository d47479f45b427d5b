"""The compiled loss of bits against its definition, NumPy in float64 and central differences."""

import numpy as np
import paddle
import pytest

from ernie5.ops import backend
from ernie5.ops.bitwise_cross_entropy import bitwise_cross_entropy
from tests.finite_differences import numeric_gradient
from tests.tolerances import tolerance

pytest.importorskip("ernie5_ops")
# rows, logits of a row, bits that count
SHAPES = [(1, 1, 1), (3, 8, 8), (7, 16, 5), (300, 40, 33), (0, 8, 8)]


@pytest.fixture(autouse=True)
def compiled():
    with backend.using("native"):
        assert backend.is_native("bitwise_cross_entropy")
        yield


def make(rows, width, bits, seed=0):
    """logits, targets, row_weights"""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, (rows, bits)).astype(np.float32)
    return rng.normal(0, 4, (rows, width)), targets, rng.uniform(0.1, 2, rows).astype(np.float32)


def formula(logits, targets, row_weights) -> float:
    logits = logits[:, : targets.shape[1]]
    losses = np.logaddexp(0, logits) - logits * targets
    return (losses.mean(-1) * row_weights).sum()


def with_gradient(arrays, dtype="float32", scale=1.0):
    logits, targets, row_weights = arrays
    x = paddle.to_tensor(logits).astype(dtype).detach()
    x.stop_gradient = False
    loss = bitwise_cross_entropy(x, paddle.to_tensor(targets), paddle.to_tensor(row_weights))
    assert loss.shape == [] and loss.dtype == (paddle.float64 if dtype == "float64" else paddle.float32)
    (grad,) = paddle.grad(loss * scale, [x])
    assert grad.dtype == x.dtype and grad.shape == x.shape
    return [one.astype("float64").numpy() for one in (loss, grad)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradient_are_the_definition_s(shape, dtype):
    arrays = make(*shape)
    found = with_gradient(arrays, dtype, scale=0.5)
    if dtype != "bfloat16":
        np.testing.assert_allclose(found[0], formula(*arrays), **tolerance(dtype))
    with backend.using("reference"):
        expected = with_gradient(arrays, dtype, scale=0.5)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], expected[1], **tolerance(dtype))


def test_gradient_is_that_of_central_differences():
    logits, targets, row_weights = make(4, 7, 5)
    _, grad = with_gradient((logits, targets, row_weights), "float64")
    expected = numeric_gradient(lambda value: formula(value, targets, row_weights), logits)
    np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-8)
    assert (grad[:, 5:] == 0).all()


def test_targets_between_0_and_1_are_probabilities():
    logits, targets, row_weights = make(4, 7, 5)
    arrays = logits, np.abs(targets - 0.25).astype(np.float32), row_weights
    found = with_gradient(arrays)
    np.testing.assert_allclose(found[0], formula(*arrays), rtol=1e-5)


def test_sure_logits_neither_overflow_nor_lose_a_small_loss():
    logits = np.array([[1000.0, -1000.0], [1000.0, -1000.0], [15.0, -15.0], [40.0, -40.0]])
    targets = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    for row, expected in enumerate([0, 1000, np.log1p(np.exp(-15)), np.log1p(np.exp(-40))]):
        weights = np.eye(4, dtype=np.float32)[row]
        loss, grad = with_gradient((logits, targets, weights))
        np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=0)
        assert np.isfinite(grad).all()


def test_what_is_not_finite_shows():
    logits, targets, row_weights = make(4, 5, 5)
    logits[2, 3] = np.nan
    assert np.isnan(with_gradient((logits, targets, row_weights))[0])


def test_without_gradients_the_loss_is_the_same():
    arrays = make(300, 40, 33)
    inputs = [paddle.to_tensor(array.astype(np.float32)) for array in arrays]
    assert float(bitwise_cross_entropy(*inputs)) == with_gradient(arrays)[0]


@pytest.mark.parametrize("seed", range(10))
def test_any_shape(seed):
    rng = np.random.default_rng(seed)
    rows, bits = (int(size) for size in rng.integers(1, 90, 2))
    arrays = make(rows, bits + seed, bits, seed)
    np.testing.assert_allclose(with_gradient(arrays)[0], formula(*arrays), rtol=1e-5, atol=1e-6)


def test_input_that_is_not_contiguous_is_read_in_its_order():
    logits, targets, row_weights = make(7, 16, 5)
    turned = paddle.to_tensor(logits.T.astype(np.float32).copy()).transpose([1, 0])
    found = float(bitwise_cross_entropy(turned, paddle.to_tensor(targets), paddle.to_tensor(row_weights)))
    assert found == with_gradient((logits, targets, row_weights))[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": paddle.ones([4])}, r"logits has shape \[4\], expected \[-1, -1\]"),
        ({"targets": paddle.ones([3, 5])}, r"targets has shape \[3, 5\], expected \[4, -1\]"),
        ({"targets": paddle.ones([4, 9])}, "targets of 9 bits for logits of 8"),
        ({"targets": paddle.ones([4, 5], "int64")}, "targets has dtype int64, expected float32"),
        ({"row_weights": paddle.ones([5])}, r"row_weights has shape \[5\], expected \[4\]"),
        ({"row_weights": paddle.ones([4], "float64")}, "row_weights has dtype float64, expected float32"),
    ],
)
def test_a_wrong_input_is_told_in_one_sentence(change, message):
    right = {"logits": paddle.ones([4, 8]), "targets": paddle.ones([4, 5]), "row_weights": paddle.ones([4])}
    with pytest.raises(OSError, match=message):
        backend.call("bitwise_cross_entropy", list((right | change).values()), True)


class Head(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([6, 16])

    def forward(self, x, targets, row_weights):
        return bitwise_cross_entropy(paddle.matmul(x, self.weight), targets, row_weights)


@pytest.mark.filterwarnings("ignore:Tensor do not have 'place':UserWarning")  # Paddle's own, of its full_like
def test_it_works_in_a_traced_program_with_its_gradients():
    arrays = make(7, 6, 5)
    inputs = [paddle.to_tensor(array.astype(np.float32)) for array in arrays]
    layer, grads = Head(), []
    for forward in (layer, paddle.jit.to_static(layer, full_graph=True)):
        (forward(*inputs) * 0.5).backward()
        grads.append(layer.weight.grad.numpy())
        layer.clear_gradients()
    np.testing.assert_array_equal(*grads)
