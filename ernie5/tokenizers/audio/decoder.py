"""The causal decoder: latents to spectra and these to a waveform (report §2.3, arXiv:2306.00814)."""

import paddle
from paddle import nn

from ernie5.config.audio_tokenizer import AudioTokenizerConfig
from ernie5.tokenizers.audio.causal_layers import Block, FrameLinear
from ernie5.tokenizers.audio.encoder import frame_blocks
from ernie5.tokenizers.audio.spectra import Synthesis
from ernie5.tokenizers.vision.causal_conv import Stream


class AudioDecoder(nn.Layer):
    """The mirror of the encoder, with a head for magnitudes and phases. All samples of a frame come with its latents.

    What windows of one frame reach into the next is added there.
    """

    def __init__(self, config: AudioTokenizerConfig):
        super().__init__()
        steps, width = config.steps_per_frame, config.channels
        self.from_latents = FrameLinear(config.latent_size, config.frame_channels, 1)
        self.frame_blocks = frame_blocks(config)
        self.to_steps = FrameLinear(config.frame_channels, steps * width, 1)
        self.blocks = nn.LayerList(Block(width, config.kernel_size, steps) for _ in range(config.num_blocks))
        self.to_spectra = FrameLinear(width, 3 * config.window_size // 2, steps)
        self.synthesis = Synthesis(config.window_size, config.hop_size, steps)

    def forward(self, latents: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        """latents [batch, frames, latent_size] -> waveform [batch, frames * frame_size], about [-1, 1]."""
        hidden = self.from_latents(latents)
        for block in self.frame_blocks:
            hidden = block(hidden, stream)
        hidden = self.to_steps(hidden).reshape([hidden.shape[0], -1, self.to_spectra.weight.shape[0]])
        for block in self.blocks:
            hidden = block(hidden, stream)
        return self.synthesis(self.to_spectra(hidden), stream)
