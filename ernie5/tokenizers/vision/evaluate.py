"""What a tokenizer keeps of media it was not trained on: PSNR of each prefix of its scales, and the use of its bits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import paddle

from ernie5.config.vision_tokenizer import VisionTokenizerConfig
from ernie5.errors import UserError
from ernie5.tokenizers.vision.losses import peak_signal_to_noise
from ernie5.tokenizers.vision.residual import ResidualCodes
from ernie5.tokenizers.vision.sampler import to_bytes, to_pixels
from ernie5.tokenizers.vision.tokenizer import Scales, VisionTokenizer

BATCH = 32  # frames that are encoded together
GAP = 2  # pixels between pictures of a sheet


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Over all frames of some media. With several sizes, prefix k and scale k are the kth of each."""

    psnr: tuple[float, ...]  # dB, the mean over frames, with the first, the first two, ... all scales
    entropy: tuple[
        float, ...
    ]  # bits: the mean over bits of the entropy of a bit's frequency, at each scale; 1 is even use
    num_frames: int


@paddle.no_grad()
def evaluate(tokenizer: VisionTokenizer, media: Sequence[np.ndarray]) -> Quality:
    """media: uint8 [frames, height, width, 3] each, of sizes that the tokenizer's table has."""
    num_scales = min(len(scales_of(tokenizer.config, medium)) for medium in media)
    psnr: list[list[float]] = [[] for _ in range(num_scales)]
    ones, cells = np.zeros((num_scales, tokenizer.config.bits)), np.zeros((num_scales, 1))
    for batch in _batches(tokenizer.config, media):
        scales = scales_of(tokenizer.config, batch[0])
        pixels = paddle.to_tensor(to_pixels(batch))
        codes, shape = encode(tokenizer, pixels, scales)
        for k, latent in enumerate(prefixes(tokenizer, codes, scales)[-num_scales:]):
            output = tokenizer.decode(latent.reshape(shape))
            psnr[k] += peak_signal_to_noise(output.flatten(0, 1), pixels.flatten(0, 1)).tolist()
        for k, bits in enumerate(codes.bits[-num_scales:]):
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


def encode(tokenizer: VisionTokenizer, pixels: paddle.Tensor, scales: Scales) -> tuple[ResidualCodes, list[int]]:
    """pixels [batch, frames, height, width, 3] -> codes of all its frames, and the shape of its latents."""
    latents = tokenizer.latents(pixels)
    return tokenizer.residual_quantize(latents.flatten(0, 1), scales), latents.shape


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
        codes, shape = encode(tokenizer, paddle.to_tensor(to_pixels(film[None])), scales)
        decoded = [tokenizer.decode(latent.reshape(shape)) for latent in prefixes(tokenizer, codes, scales)]
        row = [film[-1], *(to_bytes(pixels[0, -1].numpy()) for pixels in decoded)]
        rows.append(np.concatenate([np.pad(frame, ((0, GAP), (0, GAP), (0, 0))) for frame in row], axis=1))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])


def _batches(config: VisionTokenizerConfig, media: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """The media, stacked where they have one shape, uint8 [batch, frames, height, width, 3]."""
    cut = sorted((_whole_latent_frames(config, medium) for medium in media), key=lambda medium: medium.shape)
    for shape, group in groupby(cut, key=lambda medium: medium.shape):
        films = np.stack(list(group))
        size = max(1, BATCH // shape[0])
        yield from (films[i : i + size] for i in range(0, len(films), size))


def _whole_latent_frames(config: VisionTokenizerConfig, medium: np.ndarray) -> np.ndarray:
    """The medium without frames at its end that make no latent frame."""
    stride = config.encoder.temporal_stride
    return medium[: (len(medium) - 1) // stride * stride + 1]
