"""Causal convolutions over time, against Paddle's conv1d and conv1d_transpose, and what streaming promises."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ernie5.tokenizers.audio.causal_conv import CausalConv, ResidualUnit, Upsample
from ernie5.tokenizers.vision.causal_conv import Stream

FRAME = 12
SHAPES = pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(7, 1, 1), (3, 1, 9), (1, 1, 1), (4, 2, 1), (12, 6, 1), (2, 2, 1), (3, 1, 30)]
)


def signal(frames: int = 5, channels: int = 16, batch: int = 2, frame: int = FRAME) -> paddle.Tensor:
    return paddle.randn([batch, channels, frames * frame])


def make(kernel: int, stride: int, dilation: int) -> CausalConv:
    layer = CausalConv(16, 32, kernel, frame=FRAME, stride=stride, dilation=dilation)
    layer.bias.set_value(paddle.randn([32]))
    return layer


@SHAPES
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_convolution_is_conv1d_with_zeros_before_the_clip(kernel, stride, dilation, mode):
    layer, x = make(kernel, stride, dilation), signal()
    getattr(layer, mode)()
    padded = F.pad(x, [(kernel - 1) * dilation - stride + 1, 0], data_format="NCL")
    expected = F.conv1d(padded, layer.weight, layer.bias, stride, dilation=dilation)
    np.testing.assert_allclose(layer(x).numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


@SHAPES
def test_a_clip_in_chunks_is_convolved_as_at_once(kernel, stride, dilation):
    layer, x, stream = make(kernel, stride, dilation), signal(), Stream()
    layer.eval()
    parts = [layer(part, stream).numpy() for part in x.split([FRAME, 3 * FRAME, FRAME], axis=-1)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=-1), layer(x).numpy())


def test_a_clip_is_convolved_to_the_same_bits_whatever_is_beside_it():
    layer, x = make(7, 1, 3), signal(batch=9)
    layer.eval()
    np.testing.assert_array_equal(layer(x[4:5]).numpy(), layer(x)[4:5].numpy())


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_future_changes_nothing(mode):
    layer, x = make(7, 1, 1), signal()
    getattr(layer, mode)()
    before = layer(x).numpy()
    x[..., 30:] = 9.0
    after = layer(x).numpy()
    np.testing.assert_array_equal(after[..., :30], before[..., :30])
    assert not np.array_equal(after[..., 30], before[..., 30])


def test_upsampling_is_a_transposed_convolution_without_its_last_samples():
    layer, x, stride = Upsample(16, 16, stride=6, frame=FRAME), signal(), 6
    kernel = layer.conv.weight.reshape([16, stride, 16, 2])  # [out, phase, in, (past, present)]
    transposed = kernel.flip(-1).transpose([2, 0, 3, 1]).reshape([16, 16, 2 * stride])
    expected = F.conv1d_transpose(x, transposed, stride=stride)[..., :-stride]
    np.testing.assert_allclose(layer(x).numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_upsampling_streams():
    layer, x, stream = Upsample(16, 16, stride=6, frame=FRAME), signal(), Stream()
    layer.eval()
    parts = [layer(part, stream).numpy() for part in x.split([2 * FRAME, 3 * FRAME], axis=-1)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=-1), layer(x).numpy())


def test_an_untrained_residual_unit_changes_nothing_but_learns():
    unit, x = ResidualUnit(16, 7, 3, FRAME), signal()
    np.testing.assert_array_equal(unit(x).numpy(), x.numpy())
    unit(x).square().sum().backward()
    assert float(unit.conv2.weight.grad.abs().sum()) > 0


def test_a_convolution_of_activated_noise_keeps_its_loudness():
    layer = CausalConv(64, 64, 7, frame=FRAME)
    x = signal(channels=64, frames=20)
    assert 0.85 < float(layer(F.swish(x)).std()) < 1.15
