"""Layers over time, against Paddle's conv1d and NumPy, and what streaming promises."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ernie5.tokenizers.audio.causal_layers import Block, CausalDepthwiseConv, FrameLinear
from ernie5.tokenizers.vision.causal_conv import Stream

MODES = pytest.mark.parametrize("mode", ["train", "eval"])
SIZES = pytest.mark.parametrize(
    ("steps", "channels", "out"), [(8, 128, 384), (8, 384, 128), (1, 1024, 128), (5, 16, 32)]
)


def signal(time: int, channels: int = 16, batch: int = 2) -> paddle.Tensor:
    return paddle.randn([batch, time, channels])


@SIZES
@MODES
def test_a_product_is_over_channels(steps, channels, out, mode):
    layer, x = FrameLinear(channels, out, steps), signal(3 * steps, channels)
    layer.bias.set_value(paddle.randn([out]))
    getattr(layer, mode)()
    expected = x.numpy().astype(np.float64) @ layer.weight.numpy() + layer.bias.numpy()
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-4, atol=1e-4)


@SIZES
@pytest.mark.parametrize("kept", [slice(0, 1), slice(2, 4), slice(3, 10)])
def test_a_frame_has_the_same_bits_whatever_is_beside_it(steps, channels, out, kept):
    layer, x = FrameLinear(channels, out, steps), signal(11 * steps, channels, batch=3)
    layer.eval()
    whole = layer(x)
    rows = slice(kept.start * steps, kept.stop * steps)
    np.testing.assert_array_equal(layer(x[:, rows]).numpy(), whole[:, rows].numpy())
    np.testing.assert_array_equal(layer(x[1:2, rows]).numpy(), whole[1:2, rows].numpy())


def test_a_product_of_noise_keeps_its_loudness():
    assert 0.9 < float(FrameLinear(256, 256, 8)(signal(400, 256)).std()) < 1.1


@MODES
def test_convolution_is_conv1d_of_each_channel_with_zeros_before_the_clip(mode):
    layer, x = CausalDepthwiseConv(16, 7), signal(30)
    layer.bias.set_value(paddle.randn([16]))
    getattr(layer, mode)()
    padded = F.pad(x.transpose([0, 2, 1]), [6, 0], data_format="NCL")
    expected = F.conv1d(padded, layer.weight, layer.bias, groups=16).transpose([0, 2, 1])
    np.testing.assert_allclose(layer(x).numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_a_clip_in_chunks_passes_a_block_as_at_once(kernel):
    block, x, stream = Block(16, kernel, steps=4), signal(24), Stream()
    block.eval()
    parts = [block(part, stream).numpy() for part in x.split([4, 4, 12, 4], axis=1)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), block(x).numpy())


@MODES
def test_the_future_changes_nothing(mode):
    block, x = Block(16, 7, steps=4), signal(24)
    getattr(block, mode)()
    before = block(x).numpy()
    x[:, 10:] = 9.0
    after = block(x).numpy()
    np.testing.assert_array_equal(after[:, :8], before[:, :8])  # rows of another frame keep their bits
    np.testing.assert_allclose(after[:, 8:10], before[:, 8:10], atol=1e-6)
    assert not np.allclose(after[:, 10], before[:, 10])


def test_a_block_is_a_convnext_block_with_a_swish():
    block, x = Block(16, 3, steps=4), signal(8)
    block.scale.set_value(paddle.randn([16]))
    hidden = block.depthwise(x).numpy().astype(np.float64)
    hidden = (hidden - hidden.mean(-1, keepdims=True)) / np.sqrt(hidden.var(-1, keepdims=True) + 1e-5)
    hidden = hidden @ block.expand.weight.numpy()
    hidden = hidden / (1 + np.exp(-hidden)) @ block.shrink.weight.numpy()
    np.testing.assert_allclose(block(x).numpy(), x.numpy() + block.scale.numpy() * hidden, rtol=1e-4, atol=1e-4)
