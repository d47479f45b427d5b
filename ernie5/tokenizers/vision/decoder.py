"""The causal decoder: latents back to pixels, the mirror of the encoder (report §2.2.1)."""

import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.config.schema import VisionEncoderConfig
from ernie5.tokenizers.vision.causal_conv import (
    TEMPORAL_KERNEL,
    CausalConv,
    ResBlock,
    Stream,
    Upsample,
)
from ernie5.tokenizers.vision.encoder import from_frames, temporal_strides, to_frames


class VisionDecoder(nn.Layer):
    """The levels of an encoder from the last to the first; each level before the last doubles height and width."""

    def __init__(self, config: VisionEncoderConfig, bits: int, temporal_kernel: int = TEMPORAL_KERNEL):
        super().__init__()
        channels = config.channels[::-1]
        strides = temporal_strides(config)[::-1]
        self.conv_in = CausalConv(bits, channels[0], temporal_kernel=temporal_kernel)
        self.blocks, self.ups = nn.LayerList(), nn.LayerList()
        for level, width in enumerate(channels):
            if level > 0:
                self.ups.append(Upsample(channels[level - 1], width, strides[level - 1], temporal_kernel))
            self.blocks.append(nn.LayerList(ResBlock(width, temporal_kernel) for _ in range(config.num_res_blocks)))
        self.conv_out = CausalConv(channels[-1], 3, temporal_kernel=temporal_kernel)

    def forward(self, latents: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        """latents [batch, latent frames, h, w, bits] -> pixels [batch, frames, height, width, 3], about [-1, 1]."""
        batch = latents.shape[0]
        hidden = self.conv_in(to_frames(latents), batch, stream)
        for level, blocks in enumerate(self.blocks):
            if level > 0:
                hidden = self.ups[level - 1](hidden, batch, stream)
            for block in blocks:
                hidden = block(hidden, batch, stream)
        return from_frames(self.conv_out(F.swish(hidden), batch, stream), batch)
