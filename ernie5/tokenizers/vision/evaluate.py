"""What a tokenizer keeps of media it was not trained on: PSNR of each prefix of its scales, and the use of its bits."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import paddle

from ernie5.config.vision_tokenizer import VisionTokenizerConfig
from ernie5.errors import UserError
from ernie5.tokenizers.vision.causal_conv import Stream
from ernie5.tokenizers.vision.losses import peak_signal_to_noise
from ernie5.tokenizers.vision.residual import ResidualCodes
from ernie5.tokenizers.vision.sampler import to_bytes, to_pixels
from ernie5.tokenizers.vision.tokenizer import Scales, VisionTokenizer

BATCH, PIXELS = 32, 1 << 19  # frames, and pixels of them, that are encoded together at most
GAP = 2  # pixels between pictures of a sheet


class Piece(NamedTuple):
    """Some frames of films, and what prefixes of their scales make of them."""

    pixels: paddle.Tensor  # float32 [batch, frames, height, width, 3] in [-1, 1]
    bits: list[paddle.Tensor]  # [k] 0/1 [batch * latent frames, h_k, w_k, bits]
    outputs: list[paddle.Tensor]  # [k] as `pixels`


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Over all frames of some media, with as many entries as the size of the fewest scales has.

    They count from the end, so that sizes of other numbers of scales can be compared: the last entry is of all scales
    of each medium, the one before it of all but the last, ... With one size the first entry is of the first scale.
    """

    psnr: tuple[float, ...]  # dB, the mean over frames, of what these scales make
    # Bits: the mean over bits of the entropy of a bit's frequency, at the last of these scales; 1 is even use.
    entropy: tuple[float, ...]
    num_frames: int


@paddle.no_grad()
def evaluate(tokenizer: VisionTokenizer, media: Sequence[np.ndarray]) -> Quality:
    """media: uint8 [frames, height, width, 3] each, of sizes that the tokenizer's table has."""
    num_scales = min(len(scales_of(tokenizer.config, medium)) for medium in media)
    psnr: list[list[float]] = [[] for _ in range(num_scales)]
    ones, cells = np.zeros((num_scales, tokenizer.config.bits)), np.zeros((num_scales, 1))
    for batch in _batches(tokenizer.config, media):
        for piece in reconstruct(tokenizer, batch, num_scales):
            for k, output in enumerate(piece.outputs):
                psnr[k] += peak_signal_to_noise(output.flatten(0, 1), piece.pixels.flatten(0, 1)).tolist()
            for k, bits in enumerate(piece.bits):
                flat = bits.reshape([-1, tokenizer.config.bits])
                ones[k] += flat.sum(axis=0).numpy()
                cells[k] += flat.shape[0]
    return Quality(
        psnr=tuple(float(np.mean(values)) for values in psnr),
        entropy=tuple(bit_entropy(ones / cells).mean(axis=1).tolist()),
        num_frames=len(psnr[0]),
    )


def bit_entropy(frequency: np.ndarray) -> np.ndarray:
    """Entropy in bits of a bit that is 1 this often."""
    p = np.clip(np.asarray(frequency, dtype=np.float64), 1e-12, 1 - 1e-12)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def scales_of(config: VisionTokenizerConfig, medium: np.ndarray) -> Scales:
    """The scales of the medium's size. UserError if the table does not have it."""
    for resolution in config.resolutions:
        if (resolution.height, resolution.width) == medium.shape[-3:-1]:
            return resolution.scales
    sizes = ", ".join(f"{r.height} x {r.width}" for r in config.resolutions)
    height, width = medium.shape[-3:-1]
    raise UserError(f"a medium of {height} x {width} pixels: the vision tokenizer has {sizes}; bring it to one of them")


def reconstruct(tokenizer: VisionTokenizer, films: np.ndarray, num_scales: int) -> Iterator[Piece]:
    """uint8 films [batch, frames, height, width, 3], and what the last `num_scales` prefixes of their scales make.

    A long film comes in pieces, so that memory does not grow with its length.
    """
    scales = scales_of(tokenizer.config, films[0])
    starts = _starts(tokenizer.config, films.shape)
    encoding, *decoding = [Stream() if len(starts) > 1 else None for _ in range(1 + num_scales)]
    for part in np.split(films, starts[1:], axis=1):
        pixels = paddle.to_tensor(to_pixels(part))
        latents = tokenizer.latents(pixels, encoding)
        codes = tokenizer.residual_quantize(latents.flatten(0, 1), scales)
        sums = prefixes(tokenizer, codes, scales)[-num_scales:]
        outputs = [
            tokenizer.decode(total.reshape(latents.shape), stream) for total, stream in zip(sums, decoding, strict=True)
        ]
        yield Piece(pixels, codes.bits[-num_scales:], outputs)


def _starts(config: VisionTokenizerConfig, shape: Sequence[int]) -> list[int]:
    """The first frame of each piece of films of this shape; one frame, then whole latent frames, begin a film."""
    batch, frames, height, width, _ = shape
    stride = config.encoder.temporal_stride
    length = max(1, PIXELS // (batch * height * width * stride)) * stride
    return [0, *range(1 + length, frames, length)]


def prefixes(tokenizer: VisionTokenizer, codes: ResidualCodes, scales: Scales) -> list[paddle.Tensor]:
    """The sums of the first, the first two, ... all scales, each [N, h, w, bits]; without gradients."""
    total = paddle.zeros(codes.latent.shape)
    sums = []
    for k, bits in enumerate(codes.bits):
        total = tokenizer.accumulate(total, bits, k, scales)
        sums.append(total)
    return sums


@paddle.no_grad()
def reconstruction_sheet(tokenizer: VisionTokenizer, media: Sequence[np.ndarray]) -> np.ndarray:
    """A row a medium: its last frame, then what each prefix of its scales makes of that. uint8 [height, width, 3]."""
    rows = []
    for medium in media:
        scales, film = scales_of(tokenizer.config, medium), _whole_latent_frames(tokenizer.config, medium)
        *_, last = reconstruct(tokenizer, film[None], len(scales))
        row = [film[-1], *(to_bytes(pixels[0, -1].numpy()) for pixels in last.outputs)]
        rows.append(np.concatenate([np.pad(frame, ((0, GAP), (0, GAP), (0, 0))) for frame in row], axis=1))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])


def _batches(config: VisionTokenizerConfig, media: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """The media, stacked where they have one shape, uint8 [batch, frames, height, width, 3]."""
    cut = sorted((_whole_latent_frames(config, medium) for medium in media), key=lambda medium: medium.shape)
    for shape, group in groupby(cut, key=lambda medium: medium.shape):
        films = np.stack(list(group))
        size = max(1, min(BATCH // shape[0], PIXELS // math.prod(shape[:3])))
        yield from (films[i : i + size] for i in range(0, len(films), size))


def _whole_latent_frames(config: VisionTokenizerConfig, medium: np.ndarray) -> np.ndarray:
    """The medium without frames at its end that make no latent frame."""
    stride = config.encoder.temporal_stride
    return medium[: (len(medium) - 1) // stride * stride + 1]
