"""The compiled RMS norms against their definition, NumPy in float64 and central differences."""

import numpy as np
import paddle
import pytest

from ernie5.ops import backend
from ernie5.ops.rms_norm import add_rms_norm, rms_norm
from tests.finite_differences import numeric_gradient
from tests.tolerances import tolerance

pytest.importorskip("ernie5_ops")
EPSILON = 2.0**-17  # as an attribute it is a float, which holds it exactly
SHAPES = [(1, 1), (3, 5), (7, 64), (130, 257), (2, 3, 16), (0, 8), (4,)]


@pytest.fixture(autouse=True)
def compiled():
    with backend.using("native"):
        assert backend.is_native("rms_norm") and backend.is_native("add_rms_norm")
        yield


def formula(s: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return s / np.sqrt((s**2).mean(-1, keepdims=True) + EPSILON) * weight


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, 2, shape)


def tensor(array: np.ndarray, dtype: str = "float32") -> paddle.Tensor:
    return paddle.to_tensor(array).astype(dtype).detach()


def with_gradients(function, arrays, cotangents, dtype="float32"):
    """Outputs and gradients, as float64 arrays."""
    inputs = [tensor(array, dtype) for array in arrays]
    for one in inputs:
        one.stop_gradient = False
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    grads = paddle.grad(
        list(outputs), inputs, [tensor(cotangent, dtype) for cotangent, _ in zip(cotangents, outputs, strict=True)]
    )
    return [one.astype("float64").numpy() for one in (*outputs, *grads)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm_equals_the_formula(shape, dtype):
    x, weight = (tensor(array, dtype) for array in (numbers(*shape), numbers(shape[-1], seed=1)))
    expected = formula(x.astype("float64").numpy(), weight.astype("float64").numpy())
    found = rms_norm(x, weight, EPSILON)
    assert found.dtype == x.dtype and found.shape == list(shape)
    np.testing.assert_allclose(found.astype("float64").numpy(), expected, **tolerance(dtype))


@pytest.mark.parametrize("shape", [(3, 5), (130, 257)])
def test_rms_norm_has_the_definition_s_gradients(shape):
    arrays, cotangents = (numbers(*shape), numbers(shape[-1], seed=1)), (numbers(*shape, seed=2),)
    found = with_gradients(lambda x, weight: rms_norm(x, weight, EPSILON), arrays, cotangents)
    with backend.using("reference"):
        expected = with_gradients(lambda x, weight: rms_norm(x, weight, EPSILON), arrays, cotangents)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize("shape", [(3, 6), (2, 33)])
def test_add_rms_norm_has_the_gradients_of_central_differences(shape):
    x, residual, weight = numbers(*shape), numbers(*shape, seed=1), numbers(shape[-1], seed=2)
    cotangents = numbers(*shape, seed=3), numbers(*shape, seed=4)

    def objective(x, residual, weight):
        return (formula(x + residual, weight) * cotangents[0]).sum() + ((x + residual) * cotangents[1]).sum()

    found = with_gradients(
        lambda x, r, weight: add_rms_norm(x, r, weight, EPSILON), (x, residual, weight), cotangents, "float64"
    )
    np.testing.assert_allclose(found[0], formula(x + residual, weight), **tolerance("float64"))
    np.testing.assert_array_equal(found[1], x + residual)
    values = [x, residual, weight]
    for place, grad in enumerate(found[2:]):
        expected = numeric_gradient(
            lambda value, place=place: objective(*values[:place], value, *values[place + 1 :]), values[place]
        )
        np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-6)


def test_a_row_of_zeros_stays_zero():
    assert (rms_norm(paddle.zeros([2, 4]), paddle.ones([4]), EPSILON).numpy() == 0).all()


def test_input_that_is_not_contiguous_is_read_in_its_order():
    x, weight = tensor(numbers(8, 6)), paddle.ones([8])
    np.testing.assert_array_equal(
        rms_norm(x.transpose([1, 0]), weight, EPSILON).numpy(),
        rms_norm(tensor(numbers(8, 6).T.copy()), weight, EPSILON).numpy(),
    )


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        (paddle.ones([2, 4]), paddle.ones([5]), r"weight has shape \[5\], expected \[4\]"),
        (paddle.ones([2, 4]), paddle.ones([4], "float64"), "weight has dtype float64, expected float32"),
        (paddle.ones([2, 4], "int32"), paddle.ones([4], "int32"), "use float32, bfloat16 or float64"),
    ],
)
def test_a_wrong_input_is_told_in_one_sentence(x, weight, message):
    with pytest.raises(OSError, match=message):
        backend.call("rms_norm", [x, weight], EPSILON)


def test_what_is_frozen_has_no_gradient():
    x, weight = paddle.ones([2, 4]), paddle.ones([4])
    x.stop_gradient = False
    rms_norm(x, weight, EPSILON).sum().backward()
    assert x.grad is not None and weight.grad is None


class Norm(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([8])

    def forward(self, x):
        return add_rms_norm(x, x * 2, self.weight, EPSILON)[0]


@pytest.mark.filterwarnings("ignore:Tensor do not have 'place':UserWarning")  # Paddle's own, of its full_like
def test_it_works_in_a_traced_program_with_its_gradients():
    x, layer, grads = tensor(numbers(5, 8)), Norm(), []
    for forward in (layer, paddle.jit.to_static(layer, full_graph=True)):
        forward(x).sum().backward()
        grads.append(layer.weight.grad.numpy())
        layer.clear_gradients()
    np.testing.assert_array_equal(*grads)


def test_it_works_in_a_saved_program_of_any_number_of_rows(tmp_path):
    layer, x = Norm(), tensor(numbers(5, 8))
    expected = layer(x).numpy()
    paddle.jit.save(layer, str(tmp_path / "norm"), input_spec=[paddle.static.InputSpec([None, 8], "float32")])
    np.testing.assert_array_equal(paddle.jit.load(str(tmp_path / "norm"))(x).numpy(), expected)
