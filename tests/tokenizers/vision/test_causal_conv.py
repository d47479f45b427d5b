"""Causal convolutions, against Paddle's conv3d, and what inflation and streaming promise."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ernie5.tokenizers.vision.causal_conv import CausalConv, Downsample, Stream, Upsample, inflate
from ernie5.tokenizers.vision.encoder import from_frames, to_frames


def film(batch: int, frames: int, size: int, channels: int) -> paddle.Tensor:
    """[batch, frames, size, size, channels]."""
    return paddle.randn([batch, frames, size, size, channels])


def run(layer: paddle.nn.Layer, video: paddle.Tensor, stream: Stream | None = None) -> np.ndarray:
    """A layer on a film [batch, frames, height, width, channels], likewise."""
    batch = video.shape[0]
    return from_frames(layer(to_frames(video), batch, stream), batch).numpy()


@pytest.mark.parametrize(("kernel", "stride", "temporal_kernel"), [(3, 1, 3), (3, 2, 3), (1, 1, 2), (3, 1, 1)])
def test_convolution_is_conv3d_with_zeros_before_the_film(kernel: int, stride: int, temporal_kernel: int):
    layer = CausalConv(4, 5, kernel, stride, temporal_kernel)
    layer.bias.set_value(paddle.randn([5]))
    video = film(2, 5, 8, 4)
    padded = F.pad(video.transpose([0, 4, 1, 2, 3]), [0, 0, 0, 0, temporal_kernel - 1, 0], data_format="NCDHW")
    side = kernel // 2
    expected = F.conv3d(padded, layer.weight, layer.bias, stride=[1, stride, stride], padding=[0, side, side])
    np.testing.assert_allclose(run(layer, video), expected.transpose([0, 2, 3, 4, 1]).numpy(), rtol=1e-5, atol=1e-5)


def test_a_picture_is_the_first_frame_of_a_film():
    layer, video = CausalConv(4, 5), film(2, 3, 4, 4)
    np.testing.assert_allclose(run(layer, video)[:, :1], run(layer, video[:, :1]), rtol=1e-5, atol=1e-6)


def test_gradient_of_a_film_reaches_every_slice_of_the_weight():
    layer = CausalConv(2, 3)
    (layer(to_frames(film(1, 3, 4, 2)), 1) ** 2).sum().backward()
    assert (layer.weight.grad.abs().sum(axis=[0, 1, 3, 4]) > 0).all()


def test_the_future_changes_nothing():
    layer, video = CausalConv(4, 4), film(1, 4, 4, 4)
    before = run(layer, video)
    video[:, 3] = 9.0
    after = run(layer, video)
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert not np.array_equal(after[:, 3], before[:, 3])


@pytest.mark.parametrize("chunks", [(1, 1, 1, 1, 1), (2, 3), (4, 1), (1, 4)])
def test_a_film_in_chunks_is_convolved_as_at_once(chunks: tuple[int, ...]):
    layer, video, stream = CausalConv(4, 5), film(2, 5, 4, 4), Stream()
    parts = [run(layer, part, stream) for part in video.split(list(chunks), axis=1)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), run(layer, video))


def test_downsampling_keeps_the_first_frame_and_every_second_after_it():
    layer, video = Downsample(4, 4, temporal_stride=2, temporal_kernel=3), film(1, 5, 4, 4)
    np.testing.assert_array_equal(run(layer, video), run(layer.conv, video)[:, ::2])


def test_upsampling_undoes_the_count_of_downsampling():
    layer = Upsample(4, 3, temporal_stride=2, temporal_kernel=3)
    assert run(layer, film(1, 3, 4, 4)).shape == (1, 5, 8, 8, 3)


def test_copies_of_a_frame_differ_where_the_film_moves():
    layer = Upsample(4, 3, temporal_stride=2, temporal_kernel=3)
    frames = run(layer, film(1, 3, 4, 4))
    assert not np.allclose(frames[:, 3], frames[:, 4])


@pytest.mark.parametrize("kind", [Downsample, Upsample])
def test_strided_layers_stream(kind: type):
    layer, video, stream = kind(4, 4, temporal_stride=2, temporal_kernel=3), film(2, 5, 4, 4), Stream()
    parts = [run(layer, part, stream) for part in video.split([1, 2, 2], axis=1)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), run(layer, video))


def test_inflation_puts_the_picture_weights_in_the_present():
    picture, video = CausalConv(2, 3, temporal_kernel=1), CausalConv(2, 3)
    inflate(picture.state_dict(), video)
    np.testing.assert_array_equal(video.weight[:, :, 2].numpy(), picture.weight[:, :, 0].numpy())
    assert not video.weight[:, :, :2].abs().any()
    np.testing.assert_array_equal(video.bias.numpy(), picture.bias.numpy())
