"""The media of a batch as the model takes them: pixels to understand, inputs and target bits to generate.

The layout of what predicts what is here, once, for training, evaluation and prompts (report §2.2.3, Figure 2).
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import paddle

from ernie5.modality.bit_flips import draw_flips
from ernie5.modality.unified import VisualMedium
from ernie5.modality.visual_layout import Scales, generation_layout
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer


class Understood(NamedTuple):
    """Media of one shape that are looked at."""

    pixels: paddle.Tensor  # float32 [media, frames, height, width, 3], in [-1, 1]
    places: np.ndarray  # int64 [media * tokens]: in the flattened batch


class Generated(NamedTuple):
    """The visual tokens that are generated, of all media of a batch. `bits` is the tokenizer's."""

    inputs: paddle.Tensor  # float32 [n, bits]: the scales before, summed and resized, that a token reads, +-1 a bit
    scale_ids: np.ndarray  # int64 [n]: the scale whose place it takes
    places: np.ndarray  # int64 [n]: in the flattened batch
    targets: paddle.Tensor  # float32 [n, bits], 0 or 1
    target_places: np.ndarray  # int64 [n]: the position that predicts them, one before
    weight: np.ndarray  # float32 [n]


class VisionBatch(NamedTuple):
    understood: list[Understood]
    generated: Generated | None


class VisionCoder:
    """Encodes media with a vision tokenizer, which is never trained here (report §5: it runs apart).

    Media that are only understood need none.
    """

    def __init__(self, tokenizer: VisionTokenizer | None, scale_weight_power: float = 0.5):
        self.tokenizer, self.scale_weight_power = tokenizer, scale_weight_power

    def encode(self, media: Sequence[VisualMedium], seq_len: int) -> VisionBatch:
        """Media of stacked rows of `seq_len` tokens."""
        understood = [_understood(group, seq_len) for group in _by_shape(m for m in media if not m.scales)]
        generated = [self._generated(group, seq_len) for group in _by_shape(m for m in media if m.scales)]
        return VisionBatch(understood, _concatenate(generated) if generated else None)

    @paddle.no_grad()
    def _generated(self, media: Sequence[VisualMedium], seq_len: int) -> Generated:
        scales = media[0].scales
        latents = self.tokenizer.latents(_pixels(media))
        num_media, num_frames, height, width, bits = latents.shape
        codes = self.tokenizer.residual_quantize(
            latents.reshape([-1, height, width, bits]), scales, _flips(media, scales, bits)
        )
        length = media[0].length
        starts = np.array([medium.row * seq_len + medium.start for medium in media])
        places = (starts[:, None] + np.arange(length)).ravel()
        weight = scale_weights(scales, self.scale_weight_power)
        return Generated(
            inputs=_tokens(codes.inputs),
            scale_ids=np.tile(generation_layout(num_frames, scales, num_frames).scale_ids, num_media),
            places=places,
            targets=_tokens(codes.bits),
            target_places=places - 1,
            weight=np.tile(weight, num_media * num_frames),
        )


def scale_weights(scales: Scales, power: float) -> np.ndarray:
    """float32 [tokens of a frame]: (cells of the last scale / cells of scale k) ** power, of mean 1."""
    cells = np.array([h * w for h, w in scales])
    weight = np.repeat((cells[-1] / cells) ** power, cells)
    return (weight / weight.mean()).astype(np.float32)


def _by_shape(media: Iterable[VisualMedium]) -> list[list[VisualMedium]]:
    def shape(medium: VisualMedium) -> tuple:
        return medium.pixels.shape, medium.scales

    return [list(group) for _, group in groupby(sorted(media, key=shape), shape)]


def _pixels(media: Sequence[VisualMedium]) -> paddle.Tensor:
    pixels = np.stack([medium.pixels for medium in media])
    return paddle.to_tensor(pixels.astype(np.float32) / np.float32(127.5) - np.float32(1))


def _understood(media: Sequence[VisualMedium], seq_len: int) -> Understood:
    places = [medium.row * seq_len + medium.start + np.arange(medium.length) for medium in media]
    return Understood(_pixels(media), np.concatenate(places))


def _flips(media: Sequence[VisualMedium], scales: Scales, bits: int) -> list[paddle.Tensor] | None:
    """Per scale, 0/1 float32 [media * frames, h, w, bits]; a function of each medium's own seed."""
    if media[0].flip_rates is None:
        return None
    drawn = [draw_flips(medium.flip_rates, scales, bits, np.random.default_rng(medium.flip_seed)) for medium in media]
    return [paddle.to_tensor(np.concatenate(of_scale).astype(np.float32)) for of_scale in zip(*drawn, strict=True)]


def _tokens(per_scale: Sequence[paddle.Tensor]) -> paddle.Tensor:
    """[frames, h_k, w_k, bits] of every scale -> [frames * tokens of a frame, bits], frame by frame."""
    frames, bits = per_scale[0].shape[0], per_scale[0].shape[-1]
    joined = paddle.concat([values.reshape([frames, -1, bits]) for values in per_scale], axis=1)
    return joined.reshape([-1, bits])


def _concatenate(parts: Sequence[Generated]) -> Generated:
    columns = zip(*parts, strict=True)
    return Generated(*(paddle.concat(c) if isinstance(c[0], paddle.Tensor) else np.concatenate(c) for c in columns))
