"""RMS normalisation against its formula in NumPy, and its handwritten gradient against central differences."""

import numpy as np
import paddle
import pytest

from ernie5.ops.rms_norm import rms_norm
from tests.finite_differences import numeric_gradient
from tests.tolerances import tolerance

EPSILON = 1e-5


def formula(x: np.ndarray, weight: np.ndarray, epsilon: float = EPSILON) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weight


@pytest.mark.parametrize("shape", [(5,), (1, 8), (3, 4, 16), (2, 0, 8)])
def test_rms_norm_equals_the_formula(shape):
    x, weight = np.random.normal(0.5, 2, shape), np.random.normal(size=shape[-1])
    result = rms_norm(paddle.to_tensor(x.astype("float32")), paddle.to_tensor(weight.astype("float32")), EPSILON)
    np.testing.assert_allclose(result.numpy(), formula(x, weight), **tolerance("float32"))


def test_rms_norm_of_zeros_is_zero():
    assert (rms_norm(paddle.zeros([2, 4]), paddle.ones([4]), EPSILON).numpy() == 0).all()


def test_rms_norm_adds_epsilon_to_the_mean_square():
    x = np.full([1, 4], 1e-3)
    result = rms_norm(paddle.to_tensor(x.astype("float32")), paddle.ones([4]), 1e-2)
    np.testing.assert_allclose(result.numpy(), formula(x, np.ones(4), 1e-2), **tolerance("float32"))


def test_rms_norm_gradients_equal_central_differences():
    x, weight, cotangent = np.random.normal(size=[3, 6]), np.random.normal(size=6), np.random.normal(size=[3, 6])
    tensors = [paddle.to_tensor(array.astype("float32"), stop_gradient=False) for array in (x, weight)]
    (rms_norm(*tensors, EPSILON) * paddle.to_tensor(cotangent.astype("float32"))).sum().backward()
    expected_x = numeric_gradient(lambda v: (formula(v, weight) * cotangent).sum(), x)
    expected_weight = numeric_gradient(lambda v: (formula(x, v) * cotangent).sum(), weight)
    np.testing.assert_allclose(tensors[0].grad.numpy(), expected_x, rtol=1e-5, atol=3e-6)
    np.testing.assert_allclose(tensors[1].grad.numpy(), expected_weight, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("frozen", [0, 1], ids=["input", "weight"])
def test_rms_norm_gives_no_gradient_to_what_is_frozen(frozen):
    tensors = [paddle.ones([2, 4]), paddle.ones([4])]
    tensors[1 - frozen].stop_gradient = False
    rms_norm(*tensors, EPSILON).sum().backward()
    assert tensors[frozen].grad is None
    assert tensors[1 - frozen].grad is not None


def test_rms_norm_keeps_a_low_precision_dtype_and_computes_in_float32():
    x = paddle.to_tensor(np.random.normal(0, 300, [4, 64]).astype("float32")).astype("float16")  # squares overflow
    weight = paddle.ones([64], "float16")
    result = rms_norm(x, weight, EPSILON)
    assert result.dtype == paddle.float16
    np.testing.assert_allclose(
        result.astype("float32").numpy(),
        formula(x.astype("float32").numpy(), np.ones(64, np.float32)),
        **tolerance("float16"),
    )
