"""Multi-scale residual quantisation of a frame, and its inverse a scale at a time (report §2.2.1, arXiv:2404.02905).

Every scale adds codes of the same magnitude, as in arXiv:2412.04431; there is no factor a scale. On random latents with
spectra from rough to smooth (1/f^0.5 to 1/f^2) and 3 to 7 scales, each scale lowers the error if the latents are two to
four times as long as a code, more the rougher they are and the more scales there are; this length the autoencoder is
free to learn, and with shorter latents the first scales overshoot. Factors that fall (geometric 0.95 to 0.5, inverse
root of the scale's number, powers of its cells) lower the last error by more than a tenth only for smooth latents
(1/f^1.5 and beyond) and six scales or more, and for rougher ones let the first scales overshoot.
"""

from collections.abc import Sequence
from typing import NamedTuple

import paddle

from ernie5.errors import UserError
from ernie5.tokenizers.vision.quantizer import Quantizer, straight_through
from ernie5.tokenizers.vision.resize import resize

Scales = Sequence[Sequence[int]]  # (height, width) of each in latent cells; first 1 x 1, last the whole grid


class ResidualCodes(NamedTuple):
    """What K scales make of latents [N, H, W, d]. Lists have K entries; `residuals` and `latent` carry gradients."""

    bits: list[paddle.Tensor]  # [k] float32 0/1 [N, h_k, w_k, d]: of the residual that scale k sees, before its flips
    # [i], i < K - 1: float32 [N, h_(i+1), w_(i+1), d], the sum of scales 0..i at the size of scale i + 1, from which
    # that one is predicted. [K - 1]: the sum of all at the size of scale 0 (S_S of report Figure 2). Flips are in them.
    # In units of a code's entry: +-1 where one scale alone has spoken.
    inputs: list[paddle.Tensor]
    latent: paddle.Tensor  # float32 [N, H, W, d]: the sum of all scales; its gradient goes to the latents unchanged
    residuals: list[paddle.Tensor]  # [k] float32 [N, h_k, w_k, d]: what scale k quantised; for the quantiser's losses


def residual_quantize(
    latents: paddle.Tensor, scales: Scales, quantizer: Quantizer, flips: Sequence[paddle.Tensor] | None = None
) -> ResidualCodes:
    """Each frame by itself: scale k codes the area mean of what the scales before have left, and is resized back.

    latents [N, H, W, d] of any float dtype, computed on in float32; flips[k] 0/1 [N, h_k, w_k, d]: bits to invert. A
    flipped bit is in the sums that follow, so later bits are targets that correct it (arXiv:2412.04431 §3.3).
    """
    _check(latents, scales)
    latents = latents.astype("float32")
    total = paddle.zeros_like(latents)
    bits, inputs, residuals = [], [], []
    for k, scale in enumerate(scales):
        residuals.append(resize(latents - total, scale))
        bits.append(quantizer.bits(residuals[k]))
        sent = bits[k] if flips is None else (bits[k] - flips[k].astype("float32")).abs()
        total = accumulate(total, sent, k, scales, quantizer)
        inputs.append(next_input(total, k + 1, scales, quantizer))
    return ResidualCodes(bits, inputs, straight_through(total, latents), residuals)


def accumulate(
    latent: paddle.Tensor, bits_k: paddle.Tensor, k: int, scales: Scales, quantizer: Quantizer
) -> paddle.Tensor:
    """The sum of scales 0..k from that of 0..k-1 (zeros for k = 0) [N, H, W, d] and bits_k 0/1 [N, h_k, w_k, d].

    Scale by scale this gives `residual_quantize`'s latent to the last bit.
    """
    assert tuple(bits_k.shape[1:3]) == tuple(scales[k]), "bits of another scale"
    return latent + resize(quantizer.codes(bits_k.astype("float32")), scales[-1])


def next_input(latent: paddle.Tensor, k: int, scales: Scales, quantizer: Quantizer) -> paddle.Tensor:
    """What is read when latent [N, H, W, d] holds scales 0..k-1: it at the size of scale k, or if k = K, of scale 0.

    In units of a code's entry, so that a bit weighs the same whatever the quantiser and the number of bits.
    """
    return resize(latent, scales[k % len(scales)]) / quantizer.magnitude


def _check(latents: paddle.Tensor, scales: Scales) -> None:
    if not scales or tuple(scales[-1]) != tuple(latents.shape[1:3]):
        found = "x".join(map(str, scales[-1])) if scales else "none"
        grid = "x".join(map(str, latents.shape[1:3]))
        raise UserError(f"scales: the last is {found} but the latents are {grid}: give scales that end in the grid")
