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
            self.semantic = SemanticBranch(tokenizer.config.encoder, make_teacher(loss.semantic, tokenizer.config))

    def forward(self, pixels: paddle.Tensor, rng: np.random.Generator, adversarial: bool) -> Terms:
        """pixels float32 [batch, frames, height, width, 3] in [-1, 1]; `adversarial`: the adversary has set in."""
        tokenizer, loss = self.tokenizer, self.config.loss
        scales = scales_of(tokenizer.config, pixels)
        features = tokenizer.encoder(pixels)
        latents = tokenizer.to_bits(features)
        flat = latents.flatten(0, 1)
        codes = tokenizer.residual_quantize(flat, scales)
        kept = drop_scales(tokenizer, codes, latents, scales, self.config.scale_dropout, rng)
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


def drop_scales(
    tokenizer: VisionTokenizer,
    codes: ResidualCodes,
    latents: paddle.Tensor,
    scales: Scales,
    share: float,
    rng: np.random.Generator,
) -> paddle.Tensor:
    """latents [batch, frames, h, w, bits] quantised; of a random share of the batch only a prefix of the scales.

    So each prefix is a picture, and early scales hold what matters most. The gradient of a prefix goes to what it can
    tell of the latents, their form at its size. Sent to all of the latents, it costs the whole 0.8 dB (docs/log.md).
    """
    kept = codes.latent.reshape(latents.shape)
    dropped = rng.binomial(len(latents), share)
    if dropped == 0 or len(scales) == 1:
        return kept
    source = latents[:dropped].flatten(0, 1)
    prefix = paddle.zeros(source.shape)
    number = int(rng.integers(1, len(scales)))
    for k in range(number):
        prefix = tokenizer.accumulate(prefix, codes.bits[k][: len(source)], k, scales)
    coarse = resize(resize(source, scales[number - 1]), scales[-1])
    prefix = straight_through(prefix, coarse).reshape([dropped, *latents.shape[1:]])
    return paddle.concat([prefix, kept[dropped:]]) if dropped < len(latents) else prefix


def _pictures(video: paddle.Tensor) -> paddle.Tensor:
    """[batch, frames, height, width, 3] -> [batch * frames, 3, height, width]."""
    return video.flatten(0, 1).transpose([0, 3, 1, 2])
