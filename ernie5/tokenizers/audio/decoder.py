"""The causal decoder: latents back to a waveform, the mirror of the encoder (report §2.3)."""

import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.config.audio_tokenizer import AudioTokenizerConfig
from ernie5.tokenizers.audio.causal_conv import CausalConv, Upsample
from ernie5.tokenizers.audio.encoder import LATENT_KERNEL, LOUDNESS, residual_units
from ernie5.tokenizers.vision.causal_conv import Stream


class AudioDecoder(nn.Layer):
    """The levels of the encoder from the last to the first: residual units, then the rate times the stride."""

    def __init__(self, config: AudioTokenizerConfig):
        super().__init__()
        frame, channels = 1, config.channels[::-1]
        self.from_latents = CausalConv(config.latent_size, channels[0], LATENT_KERNEL, frame=frame)
        self.units, self.ups = nn.LayerList(), nn.LayerList()
        for stride, width, after in zip(config.strides[::-1], channels, (*channels[1:], 1), strict=True):
            self.units.append(residual_units(config, width, frame))
            self.ups.append(Upsample(width, after, stride, frame))
            frame *= stride
        weight = self.ups[-1].conv.weight
        weight.set_value(weight * LOUDNESS)

    def forward(self, latents: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        """latents [batch, frames, latent_size] -> waveform [batch, frames * frame_size], about [-1, 1]."""
        hidden = self.from_latents(latents.transpose([0, 2, 1]), stream)
        for units, up in zip(self.units, self.ups, strict=True):
            for unit in units:
                hidden = unit(hidden, stream)
            hidden = up(F.swish(hidden), stream)
        return hidden.squeeze(1)
