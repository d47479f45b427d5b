"""The compiled loss of a head against its definition, NumPy in float64 and central differences."""

import numpy as np
import paddle
import pytest

from ernie5.ops import backend
from ernie5.ops.cross_entropy import linear_cross_entropy
from tests.finite_differences import numeric_gradient
from tests.tolerances import tolerance

pytest.importorskip("ernie5_ops")
IGNORE = -100
# rows, hidden, vocab; the last has more rows than a chunk takes
SHAPES = [(1, 1, 1), (1, 3, 7), (7, 4, 33), (20, 16, 100), (1100, 8, 40)]


@pytest.fixture(autouse=True)
def compiled():
    with backend.using("native"):
        assert backend.is_native("linear_cross_entropy")
        yield


def make(rows, hidden, vocab, hidden_first=False, seed=0):
    """x, weight, labels (a third of them ignored), row_weights"""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(rows) < 1 / 3, IGNORE, rng.integers(0, vocab, rows))
    shape = (hidden, vocab) if hidden_first else (vocab, hidden)
    return rng.normal(size=(rows, hidden)), rng.normal(size=shape), labels, rng.uniform(0.1, 2, rows).astype(np.float32)


def formula(x, weight, labels, row_weights, hidden_first=False) -> float:
    kept = labels != IGNORE
    logits = x[kept] @ (weight if hidden_first else weight.T)
    logits = logits - logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, labels[kept, None], 1)[:, 0]
    return (row_weights[kept] * (np.log(np.exp(logits).sum(-1)) - chosen)).sum()


def tensors(arrays, dtype="float32"):
    x, weight, labels, row_weights = arrays
    floats = [paddle.to_tensor(array).astype(dtype).detach() for array in (x, weight)]
    for tensor in floats:
        tensor.stop_gradient = False
    return [*floats, paddle.to_tensor(labels), paddle.to_tensor(row_weights)]


def with_gradients(arrays, dtype="float32", hidden_first=False, scale=1.0):
    """Loss and gradients, as float64."""
    inputs = tensors(arrays, dtype)
    loss = linear_cross_entropy(*inputs, IGNORE, hidden_first)
    assert loss.shape == [] and loss.dtype == (paddle.float64 if dtype == "float64" else paddle.float32)
    grads = paddle.grad(loss * scale, inputs[:2])
    assert [grad.dtype for grad in grads] == [tensor.dtype for tensor in inputs[:2]]
    return [one.astype("float64").numpy() for one in (loss, *grads)]


@pytest.mark.parametrize("hidden_first", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients_are_the_definition_s(shape, dtype, hidden_first):
    arrays = make(*shape, hidden_first)
    found = with_gradients(arrays, dtype, hidden_first, scale=0.5)
    np.testing.assert_allclose(found[0], formula(*arrays, hidden_first), rtol=tolerance(dtype)["rtol"], atol=1e-6)
    with backend.using("reference"):
        expected = with_gradients(arrays, dtype, hidden_first, scale=0.5)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance(dtype)["rtol"], atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize("hidden_first", [False, True])
def test_gradients_are_those_of_central_differences(hidden_first):
    x, weight, labels, row_weights = arrays = make(6, 5, 9, hidden_first)
    _, grad_x, grad_weight = with_gradients(arrays, "float64", hidden_first)
    by_x = numeric_gradient(lambda value: formula(value, weight, labels, row_weights, hidden_first), x)
    by_weight = numeric_gradient(lambda value: formula(x, value, labels, row_weights, hidden_first), weight)
    np.testing.assert_allclose(grad_x, by_x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad_weight, by_weight, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_computed_in_float32():
    rounded = tensors(make(20, 16, 100), "bfloat16")
    exact = [
        tensor.astype("float32").numpy() if tensor.dtype == paddle.bfloat16 else tensor.numpy() for tensor in rounded
    ]
    found, expected = with_gradients(exact, "bfloat16"), with_gradients(exact)
    assert found[0] == expected[0]
    for one, other in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(one, other, **tolerance("bfloat16"))


def test_a_row_that_is_ignored_has_no_gradient_and_changes_no_bit():
    arrays = make(30, 4, 12)
    loss, grad_x, grad_weight = with_gradients(arrays)
    ignored = arrays[2] == IGNORE
    assert (grad_x[ignored] == 0).all() and (grad_x[~ignored] != 0).all()
    arrays[0][ignored] = np.nan
    again = with_gradients(arrays)
    for one, other in zip(again, (loss, grad_x, grad_weight), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rows", [0, 5])
def test_nothing_to_predict_costs_zero(rows):
    x, weight, labels, row_weights = make(rows, 4, 12)
    loss, grad_x, grad_weight = with_gradients((x, weight, np.full_like(labels, IGNORE), row_weights))
    assert loss == 0 and not grad_x.any() and not grad_weight.any() and grad_weight.shape == (12, 4)


def test_large_logits_do_not_overflow():
    x, weight, labels, row_weights = make(8, 4, 12)
    arrays = (x * 1e4, weight, labels, row_weights)
    found = with_gradients(arrays)
    np.testing.assert_allclose(found[0], formula(*arrays), rtol=1e-5)
    assert all(np.isfinite(one).all() for one in found)


def test_what_is_not_finite_shows():
    x, weight, labels, row_weights = make(8, 4, 12)
    x[labels != IGNORE] = np.nan
    assert np.isnan(with_gradients((x, weight, labels, row_weights))[0])


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_has_no_gradient_and_the_other_is_the_same(frozen):
    inputs = tensors(make(20, 16, 100))
    full = paddle.grad(linear_cross_entropy(*inputs, IGNORE), inputs[:2])
    inputs[frozen].stop_gradient = True
    linear_cross_entropy(*inputs, IGNORE).backward()
    assert inputs[frozen].grad is None
    np.testing.assert_array_equal(inputs[1 - frozen].grad.numpy(), full[1 - frozen].numpy())


def test_without_gradients_the_loss_is_the_same():
    inputs = tensors(make(20, 16, 100))
    expected = float(linear_cross_entropy(*inputs, IGNORE))
    with paddle.no_grad():
        assert float(linear_cross_entropy(*inputs, IGNORE)) == pytest.approx(expected, rel=1e-6)


def test_the_weights_of_rows_get_no_gradient():
    inputs = tensors(make(20, 16, 100))
    inputs[3].stop_gradient = False
    linear_cross_entropy(*inputs, IGNORE).backward()
    assert inputs[3].grad is None


def test_the_same_input_gives_the_same_bits():
    arrays = make(1100, 8, 40)
    for one, other in zip(with_gradients(arrays), with_gradients(arrays), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("seed", range(20))
def test_any_shape(seed):
    rng = np.random.default_rng(seed)
    shape = [int(rng.integers(1, top)) for top in (700, 40, 300)]
    hidden_first = bool(seed % 2)
    arrays = make(*shape, hidden_first, seed)
    found = with_gradients(arrays, "float32", hidden_first)
    np.testing.assert_allclose(found[0], formula(*arrays, hidden_first), rtol=1e-5, atol=1e-5)
    with backend.using("reference"):
        expected = with_gradients(arrays, "float32", hidden_first)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * max(np.abs(other).max(), 1))


def test_input_that_is_not_contiguous_is_read_in_its_order():
    x, weight, labels, row_weights = make(20, 16, 100)
    expected = with_gradients((x, weight, labels, row_weights))[0]
    turned = tensors((x.T.copy(), weight, labels, row_weights))
    assert float(linear_cross_entropy(turned[0].transpose([1, 0]), *turned[1:], IGNORE)) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": paddle.ones([4])}, r"x has shape \[4\], expected \[-1, -1\]"),
        ({"weight": paddle.ones([5, 3])}, r"weight has shape \[5, 3\], expected \[-1, 2\]"),
        ({"weight": paddle.ones([5, 2], "float64")}, "weight has dtype float64, expected float32"),
        ({"labels": paddle.ones([3], "int64")}, r"labels has shape \[3\], expected \[4\]"),
        ({"labels": paddle.ones([4], "int32")}, "labels has dtype int32, expected int64"),
        ({"labels": paddle.to_tensor([0, 1, 5, 0])}, r"labels\[2\] is 5, neither an id below 5 nor -100"),
        ({"labels": paddle.to_tensor([0, -1, 0, 0])}, r"labels\[1\] is -1, neither an id below 5 nor -100"),
        ({"row_weights": paddle.ones([4], "float64")}, "row_weights has dtype float64, expected float32"),
    ],
)
def test_a_wrong_input_is_told_in_one_sentence(change, message):
    right = {
        "x": paddle.ones([4, 2]),
        "weight": paddle.ones([5, 2]),
        "labels": paddle.zeros([4], "int64"),
        "row_weights": paddle.ones([4]),
    }
    with pytest.raises(OSError, match=message):
        backend.call("linear_cross_entropy", list((right | change).values()), False, True, True, IGNORE)


class Head(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([40, 8])

    def forward(self, x, labels, row_weights):
        return linear_cross_entropy(x, self.weight, labels, row_weights, IGNORE)


@pytest.mark.filterwarnings("ignore:Tensor do not have 'place':UserWarning")  # Paddle's own, of its full_like
def test_it_works_in_a_traced_program_with_its_gradients():
    x, _, labels, row_weights = tensors(make(30, 8, 40))
    layer, grads = Head(), []
    for forward in (layer, paddle.jit.to_static(layer, full_graph=True)):
        (forward(x.detach(), labels, row_weights) * 0.5).backward()
        grads.append(layer.weight.grad.numpy())
        layer.clear_gradients()
    np.testing.assert_array_equal(*grads)


def test_it_works_in_a_saved_program_of_any_number_of_rows(tmp_path):
    layer = Head()
    layer.eval()
    x, _, labels, row_weights = tensors(make(30, 8, 40))
    inputs = x.detach(), labels, row_weights
    with paddle.no_grad():
        expected = float(layer(*inputs))
        spec = [
            paddle.static.InputSpec([None, 8], "float32", "x"),
            paddle.static.InputSpec([None], "int64", "labels"),
            paddle.static.InputSpec([None], "float32", "row_weights"),
        ]
        paddle.jit.save(layer, str(tmp_path / "head"), input_spec=spec)
    assert float(paddle.jit.load(str(tmp_path / "head"))(*inputs)) == pytest.approx(expected, rel=1e-6)
