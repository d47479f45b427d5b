"""The losses of one batch, put together: reconstruction, quantiser, adversary, semantic branch (report §2.2.1)."""

import math
from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn

from ernie5.config.vision_tokenizer import VisionTokenizerTrainConfig
from ernie5.tokenizers.vision.discriminator import Adversary
from ernie5.tokenizers.vision.evaluate import scales_of
from ernie5.tokenizers.vision.losses import reconstruction_losses
from ernie5.tokenizers.vision.quantizer import straight_through
from ernie5.tokenizers.vision.residual import ResidualCodes, Scales
from ernie5.tokenizers.vision.resize import resize
from ernie5.tokenizers.vision.semantic import SemanticBranch, make_teacher
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer


class Terms(NamedTuple):
    """Weighted losses, and the frames [N, 3, height, width] that a discriminator tells apart."""

    losses: dict[str, paddle.Tensor]
    output: paddle.Tensor
    target: paddle.Tensor


class Objective(nn.Layer):
    """A tokenizer with what is trained beside it and not kept."""

    def __init__(self, tokenizer: VisionTokenizer, config: VisionTokenizerTrainConfig):
        super().__init__()
        self.tokenizer, self.config = tokenizer, config
        loss = config.loss
        self.adversary = Adversary(loss.adversarial) if loss.adversarial.weight else None
        self.semantic = None
        if loss.semantic.weight:
            encoder, size = tokenizer.config.encoder, tokenizer.config.resolutions[0]
            teacher = make_teacher(loss.semantic, encoder.stride, size.height, size.width)
            self.semantic = SemanticBranch(encoder, teacher)

    def forward(self, pixels: paddle.Tensor, rng: np.random.Generator, adversarial: bool) -> Terms:
        """pixels float32 [batch, frames, height, width, 3] in [-1, 1]; `adversarial`: the adversary has set in."""
        tokenizer, loss = self.tokenizer, self.config.loss
        scales = scales_of(tokenizer.config, pixels)
        features = tokenizer.encoder(pixels)
        latents = tokenizer.to_bits(features)
        flat = latents.flatten(0, 1)
        codes = tokenizer.residual_quantize(flat, scales)
        kept = self._drop_scales(codes, flat, latents.shape, scales, rng)
        output, target = _pictures(tokenizer.decoder(kept)), _pictures(pixels)
        losses = reconstruction_losses(output, target, loss)
        if loss.commitment:
            losses["commitment"] = loss.commitment * ((flat - codes.latent.detach()) ** 2).sum(axis=-1).mean()
        if loss.entropy:
            penalties = [tokenizer.quantizer.entropy_penalty(residual) for residual in codes.residuals]
            bits = len(penalties) * tokenizer.config.bits * math.log(2)
            losses["entropy"] = loss.entropy * sum(penalties) / bits
        if self.semantic is not None:
            losses["semantic"] = loss.semantic.weight * self.semantic(features, pixels)
        if adversarial:
            losses["adversarial"] = loss.adversarial.weight * self.adversary.generator_loss(output)
        return Terms(losses, output, target)

    def _drop_scales(
        self, codes: ResidualCodes, latents: paddle.Tensor, shape: list[int], scales: Scales, rng: np.random.Generator
    ) -> paddle.Tensor:
        """The quantised latents [batch, frames, h, w, bits]; of a share of the media only a prefix of the scales.

        So each prefix is a picture, and early scales hold what matters most.
        """
        batch, frames = shape[:2]
        dropped = rng.binomial(batch, self.config.scale_dropout)
        kept = codes.latent.reshape(shape)
        if dropped == 0 or len(scales) == 1:
            return kept
        rows = dropped * frames
        prefix = paddle.zeros([rows, *shape[2:]])
        number = int(rng.integers(1, len(scales)))
        for k in range(number):
            prefix = self.tokenizer.accumulate(prefix, codes.bits[k][:rows], k, scales)
        coarse = resize(resize(latents[:rows], scales[number - 1]), scales[-1])  # all that this prefix can tell
        prefix = straight_through(prefix, coarse).reshape([dropped, *shape[1:]])
        return paddle.concat([prefix, kept[dropped:]]) if dropped < batch else prefix


def _pictures(video: paddle.Tensor) -> paddle.Tensor:
    """[batch, frames, height, width, 3] -> [batch * frames, 3, height, width]."""
    return video.flatten(0, 1).transpose([0, 3, 1, 2])
