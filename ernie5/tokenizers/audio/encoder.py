"""The causal encoder: waveform to latents, before they are quantised (report §2.3, arXiv:2306.00814)."""

import paddle
from paddle import nn

from ernie5.config.audio_tokenizer import AudioTokenizerConfig
from ernie5.tokenizers.audio.causal_layers import Block, FrameLinear
from ernie5.tokenizers.audio.spectra import Analysis
from ernie5.tokenizers.vision.causal_conv import Stream

FRAME_KERNEL = 3  # frames that a block at the rate of codes sees


class AudioEncoder(nn.Layer):
    """Blocks over spectra, a strided convolution to the rate of codes, blocks over frames.

    Its stride is its kernel: a product with all steps of a frame at once.
    """

    def __init__(self, config: AudioTokenizerConfig):
        super().__init__()
        steps, width = config.steps_per_frame, config.channels
        self.analysis = Analysis(config.window_size, config.hop_size, steps)
        self.from_spectra = FrameLinear(config.window_size // 2, width, steps)
        self.blocks = nn.LayerList(Block(width, config.kernel_size, steps) for _ in range(config.num_blocks))
        self.to_frames = FrameLinear(steps * width, config.frame_channels, 1)
        self.frame_blocks = frame_blocks(config)
        self.to_latents = FrameLinear(config.frame_channels, config.latent_size, 1)

    def forward(self, waveform: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        """waveform float32 [batch, frames * frame_size] -> latents [batch, frames, latent_size]."""
        hidden = self.from_spectra(self.analysis(waveform, stream))
        for block in self.blocks:
            hidden = block(hidden, stream)
        hidden = self.to_frames(hidden.reshape([hidden.shape[0], -1, self.to_frames.weight.shape[0]]))
        for block in self.frame_blocks:
            hidden = block(hidden, stream)
        return self.to_latents(hidden)


def frame_blocks(config: AudioTokenizerConfig) -> nn.LayerList:
    """Those at the rate of codes."""
    return nn.LayerList(Block(config.frame_channels, FRAME_KERNEL, 1) for _ in range(config.num_frame_blocks))
