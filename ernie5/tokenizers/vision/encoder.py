"""The causal encoder: pixels to features, before they are projected to bits (report §2.2.1)."""

import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.config.schema import VisionEncoderConfig
from ernie5.tokenizers.vision.causal_conv import (
    TEMPORAL_KERNEL,
    CausalConv,
    Downsample,
    ResBlock,
    Stream,
)


class VisionEncoder(nn.Layer):
    """Residual levels of causal convolutions; each level after the first halves height and width.

    A temporal stride is made of halvings at the last levels. `temporal_kernel` 1 is the picture network, from which
    `inflate` makes the video network.
    """

    def __init__(self, config: VisionEncoderConfig, temporal_kernel: int = TEMPORAL_KERNEL):
        super().__init__()
        self.config = config
        channels = config.channels
        self.conv_in = CausalConv(3, channels[0], temporal_kernel=temporal_kernel)
        self.blocks, self.downs = nn.LayerList(), nn.LayerList()
        for level, width in enumerate(channels):
            if level > 0:
                stride = temporal_strides(config)[level - 1]
                self.downs.append(Downsample(channels[level - 1], width, stride, temporal_kernel))
            self.blocks.append(nn.LayerList(ResBlock(width, temporal_kernel) for _ in range(config.num_res_blocks)))

    def forward(self, pixels: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        """pixels float32 [batch, frames, height, width, 3] in [-1, 1] -> [batch, latent frames, h, w, channels[-1]]."""
        batch = pixels.shape[0]
        hidden = self.conv_in(to_frames(pixels), batch, stream)
        for level, blocks in enumerate(self.blocks):
            if level > 0:
                hidden = self.downs[level - 1](hidden, batch, stream)
            for block in blocks:
                hidden = block(hidden, batch, stream)
        return from_frames(F.swish(hidden), batch)


def temporal_strides(config: VisionEncoderConfig) -> list[int]:
    """1 or 2 for each level after the first: the last ones halve time."""
    halvings = config.temporal_stride.bit_length() - 1
    levels = len(config.channels) - 1
    return [2 if level >= levels - halvings else 1 for level in range(levels)]


def to_frames(video: paddle.Tensor) -> paddle.Tensor:
    """[batch, frames, height, width, channels] -> [frames * batch, channels, height, width]."""
    return video.transpose([1, 0, 4, 2, 3]).reshape([-1, *(video.shape[i] for i in (4, 2, 3))])


def from_frames(frames: paddle.Tensor, batch: int) -> paddle.Tensor:
    """The inverse of `to_frames`."""
    return frames.reshape([-1, batch, *frames.shape[1:]]).transpose([1, 0, 3, 4, 2])
