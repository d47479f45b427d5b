import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ernie5.tokenizers.vision.resize import resize, resize_matrix
from tests.tolerances import tolerance


def to_channels_first(x: paddle.Tensor) -> paddle.Tensor:
    return x.transpose([0, 3, 1, 2])


@pytest.mark.parametrize("size", [(4, 5), (7, 5), (4, 9), (13, 8), (8, 10)])
def test_growing_is_paddles_bilinear_at_half_pixels(size):
    x = paddle.randn([2, 4, 5, 3])
    expected = F.interpolate(to_channels_first(x), size=list(size), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(to_channels_first(resize(x, size)).numpy(), expected.numpy(), **tolerance("float32"))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 6), (8, 3), (2, 12)])
def test_shrinking_by_whole_numbers_is_average_pooling(size):
    x = paddle.randn([2, 8, 12, 3])
    expected = F.adaptive_avg_pool2d(to_channels_first(x), list(size))
    np.testing.assert_allclose(to_channels_first(resize(x, size)).numpy(), expected.numpy(), **tolerance("float32"))


@pytest.mark.parametrize("to, of", [(2, 3), (3, 7), (5, 8), (6, 7), (1, 5)])
def test_shrinking_by_a_fraction_is_the_integral_over_the_new_cell(to, of):
    fine = np.repeat(np.eye(of), to, axis=0).reshape(to, of, of)  # of * to slices, each as wide as the ratio allows
    np.testing.assert_allclose(resize_matrix(to, of, "down"), fine.mean(1), **tolerance("float32"))


@pytest.mark.parametrize("to, of, kind", [(3, 7, "down"), (1, 9, "down"), (9, 4, "up"), (5, 1, "up")])
def test_a_constant_stays_the_same(to, of, kind):
    np.testing.assert_allclose(resize_matrix(to, of, kind).sum(1), 1, **tolerance("float32"))


def test_one_axis_may_shrink_while_the_other_grows():
    x = paddle.randn([1, 6, 2, 1])
    expected = resize_matrix(3, 6, "down") @ x.numpy()[0, :, :, 0] @ resize_matrix(5, 2, "up").T
    np.testing.assert_allclose(resize(x, (3, 5)).numpy()[0, :, :, 0], expected, **tolerance("float32"))


def test_the_gradient_is_the_transposed_matrices():
    x = paddle.randn([1, 4, 6, 1])
    x.stop_gradient = False
    weight = np.random.default_rng(0).standard_normal([3, 9]).astype(np.float32)
    (resize(x, (3, 9))[0, :, :, 0] * paddle.to_tensor(weight)).sum().backward()
    expected = resize_matrix(3, 4, "down").T @ weight @ resize_matrix(9, 6, "up")
    np.testing.assert_allclose(x.grad.numpy()[0, :, :, 0], expected, **tolerance("float32"))


def test_a_shared_matrix_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        resize_matrix(2, 4, "down")[0, 0] = 1
