"""The causal encoder: waveform to latents, before they are quantised (report §2.3, arXiv:2306.06546)."""

import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.config.audio_tokenizer import AudioTokenizerConfig
from ernie5.tokenizers.audio.causal_conv import CausalConv, ResidualUnit
from ernie5.tokenizers.vision.causal_conv import Stream

LOUDNESS = 0.1  # of speech, root mean square: the first weights begin larger, the last smaller by it
LATENT_KERNEL = 3  # frames that the first layer behind and the last before the quantiser see


class AudioEncoder(nn.Layer):
    """Each level divides the rate by its stride and then has one residual unit for each dilation.

    The first convolution already has a stride, unlike that of SEANet and DAC: what runs at the full rate takes most of
    their time. A first stride of 1 gives theirs.
    """

    def __init__(self, config: AudioTokenizerConfig):
        super().__init__()
        frame, before = config.frame_size, 1
        self.downs, self.units = nn.LayerList(), nn.LayerList()
        for stride, width in zip(config.strides, config.channels, strict=True):
            self.downs.append(CausalConv(before, width, 2 * stride, stride=stride, frame=frame))
            frame, before = frame // stride, width
            self.units.append(residual_units(config, width, frame))
        self.downs[0].weight.set_value(self.downs[0].weight / LOUDNESS)
        self.to_latents = CausalConv(before, config.latent_size, LATENT_KERNEL, frame=1)

    def forward(self, waveform: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        """waveform float32 [batch, frames * frame_size] -> latents [batch, frames, latent_size]."""
        hidden = waveform.unsqueeze(1)
        for level, (down, units) in enumerate(zip(self.downs, self.units, strict=True)):
            hidden = down(hidden if level == 0 else F.swish(hidden), stream)
            for unit in units:
                hidden = unit(hidden, stream)
        return self.to_latents(F.swish(hidden), stream).transpose([0, 2, 1])


def residual_units(config: AudioTokenizerConfig, width: int, frame: int) -> nn.LayerList:
    """Those of one level, whose frames have `frame` samples."""
    return nn.LayerList(ResidualUnit(width, config.kernel_size, dilation, frame) for dilation in config.dilations)
