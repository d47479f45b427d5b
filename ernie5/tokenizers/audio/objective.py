"""The losses of one batch, put together: reconstruction, quantiser, adversary, semantic level (report §2.3)."""

from collections.abc import Sequence
from typing import NamedTuple

import paddle
from paddle import nn

from ernie5.config.audio_tokenizer import AudioLossConfig
from ernie5.tokenizers.audio.discriminators import AudioAdversary
from ernie5.tokenizers.audio.losses import reconstruction_losses
from ernie5.tokenizers.audio.quantizer import Quantized
from ernie5.tokenizers.audio.semantic import SemanticLoss
from ernie5.tokenizers.audio.teacher import Teacher
from ernie5.tokenizers.audio.tokenizer import AudioTokenizer


class Terms(NamedTuple):
    """Weighted losses, and what training goes on with."""

    losses: dict[str, paddle.Tensor]
    output: paddle.Tensor  # float32 [batch, samples], decoded
    quantized: Quantized


class Objective(nn.Layer):
    """A tokenizer with what is trained beside it and not kept."""

    def __init__(self, tokenizer: AudioTokenizer, config: AudioLossConfig, teacher: Teacher | None = None):
        """teacher: of the semantic level, given if that has a weight."""
        super().__init__()
        self.tokenizer, self.config = tokenizer, config
        self.adversary = AudioAdversary(config.adversarial) if config.adversarial.weight else None
        self.semantic = SemanticLoss(tokenizer.config.latent_size, teacher) if teacher is not None else None

    def forward(self, waveform: paddle.Tensor, levels: Sequence[int], adversarial: bool) -> Terms:
        """waveform float32 [batch, frames * frame_size]; levels: how many each clip keeps (`draw_levels`).

        `adversarial`: the adversary has set in.
        """
        tokenizer, config = self.tokenizer, self.config
        quantized = tokenizer.quantizer(tokenizer.latents(waveform), levels)
        output = tokenizer.decoder(quantized.latents)
        losses = reconstruction_losses(output, waveform, tokenizer.config.sample_rate, config)
        if config.commitment:
            losses["commitment"] = config.commitment * quantized.commitment.mean()
        if self.semantic is not None:
            losses["semantic"] = config.semantic.weight * self.semantic(quantized.first, waveform)
        if adversarial:
            found = self.adversary.generator_losses(waveform, output)
            losses["adversarial"] = config.adversarial.weight * found.adversarial
            losses["features"] = config.adversarial.weight * config.adversarial.feature_weight * found.features
        return Terms(losses, output, quantized)
