"""What the codec is trained on, without any downloaded network, and how far a sound is from another.

Waveforms are float32 [batch, samples]. A spectrogram of window n has a hop of n / 4, a periodic Hann window divided by
the root of its energy, so that noise of one loudness has one height at every n, and half a window of mirrored sound at
either end.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F

from ernie5.config.audio_tokenizer import AudioLossConfig

SMALLEST_POWER = 1e-12  # under a root, so that silence has a gradient
# Added to magnitudes under a logarithm or a fraction, 60 dB below full scale. With 1e-4 the few that happen to lie near
# 0 hold most of the gradient of the logarithm: on noise it is thirty times as steep as what a step of 0.1 gains.
FLOOR = 1e-3
MEASURE_WINDOW, MEASURE_BANDS = 512, 64  # of `mel_distance`


def reconstruction_losses(
    output: paddle.Tensor, target: paddle.Tensor, sample_rate: int, config: AudioLossConfig
) -> dict[str, paddle.Tensor]:
    """Weighted distances of waveforms from what they should be, without those of weight 0.

    A window longer than the clip is left out.
    """
    losses = {}
    if config.waveform:
        losses["waveform"] = config.waveform * F.l1_loss(output, target)
    windows = [window for window in config.windows if window <= target.shape[-1]]
    if windows and (config.log_magnitude or config.convergence or config.mel):
        spectral = [_spectral(output, target, sample_rate, window, config) for window in windows]
        weights = SpectralLosses(config.log_magnitude, config.convergence, config.mel)
        for name, weight, terms in zip(SpectralLosses._fields, weights, zip(*spectral, strict=True), strict=True):
            if weight:
                losses[name] = weight * sum(terms) / len(windows)
    return losses


class SpectralLosses(NamedTuple):
    """Of one window, scalars."""

    log_magnitude: paddle.Tensor  # mean |log m - log m'|
    convergence: paddle.Tensor  # |m - m'| / |m'|, both over a clip; mean over clips (arXiv:1910.11480 eq. 4)
    mel: paddle.Tensor  # mean |log b - log b'| of mel bands


def _spectral(
    output: paddle.Tensor, target: paddle.Tensor, sample_rate: int, window: int, config: AudioLossConfig
) -> SpectralLosses:
    found, expected = magnitudes(output, window), magnitudes(target, window)
    bank = mel_bank(sample_rate, window, mel_bands(config.mel_bands, window, max(config.windows)))
    return SpectralLosses(
        log_magnitude=F.l1_loss(_log(found), _log(expected)),
        convergence=(_loudness(found - expected) / (_loudness(expected) + FLOOR)).mean(),
        mel=F.l1_loss(_log(bank.matmul(found)), _log(bank.matmul(expected))),
    )


def magnitudes(waveform: paddle.Tensor, window: int) -> paddle.Tensor:
    """[batch, samples >= window / 2 + 1] -> float32 [batch, window / 2 + 1, 1 + samples // hop]."""
    hann = paddle.to_tensor(_hann(window))
    spectrum = paddle.signal.stft(waveform, window, window // 4, window=hann, center=True, pad_mode="reflect")
    return (spectrum.real().square() + spectrum.imag().square() + SMALLEST_POWER).sqrt()


def mel_bank(sample_rate: int, window: int, bands: int) -> paddle.Tensor:
    """Triangles [bands, window / 2 + 1] that are one band apart on the mel scale of HTK, 2595 log10(1 + f / 700).

    Each has a sum of 1, so that a band is a mean of magnitudes; one so narrow that it misses every frequency takes the
    nearest.
    """
    return paddle.to_tensor(_mel_bank(sample_rate, window, bands))


def mel_bands(most: int, window: int, longest: int) -> int:
    """Bands of a window: `most` of the longest, fewer of a shorter one, whose frequencies lie further apart."""
    return max(4, min(most, window // 8, most * 4 * window // longest))


def scale_invariant_ratio(output: paddle.Tensor, target: paddle.Tensor) -> paddle.Tensor:
    """SI-SDR in dB of each clip, [batch]: energy of the part along the target over that of the rest (arXiv:1811.02508).

    Means are taken out first. A silent target gives about -100 or less.
    """
    output, target = (x - x.mean(-1, keepdim=True) for x in (output, target))
    share = (output * target).sum(-1, keepdim=True) / (target.square().sum(-1, keepdim=True) + SMALLEST_POWER)
    along = share * target
    rest = (output - along).square().sum(-1)
    return 10 * paddle.log10((along.square().sum(-1) + SMALLEST_POWER) / (rest + SMALLEST_POWER))


def mel_distance(output: paddle.Tensor, target: paddle.Tensor, sample_rate: int) -> paddle.Tensor:
    """Mean absolute difference of mel bands in dB of each clip, [batch]; 0 is the same spectrum."""
    bank = mel_bank(sample_rate, MEASURE_WINDOW, MEASURE_BANDS)
    found, expected = (20 / np.log(10) * _log(bank.matmul(magnitudes(x, MEASURE_WINDOW))) for x in (output, target))
    return (found - expected).abs().mean([1, 2])


def _log(values: paddle.Tensor) -> paddle.Tensor:
    return (values + FLOOR).log()


def _loudness(spectrum: paddle.Tensor) -> paddle.Tensor:
    """Root mean square of each clip, [batch]; with a gradient at 0 too."""
    return (spectrum.square().mean([1, 2]) + SMALLEST_POWER).sqrt()


@lru_cache(maxsize=32)
def _hann(window: int) -> np.ndarray:
    shape = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    return (shape / np.sqrt(np.square(shape).sum())).astype(np.float32)


@lru_cache(maxsize=32)
def _mel_bank(sample_rate: int, window: int, bands: int) -> np.ndarray:
    frequencies = np.arange(window // 2 + 1) * sample_rate / window
    highest = 2595 * np.log10(1 + sample_rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, bands + 2) / 2595) - 1)
    low, centre, high = (corners[i : i + bands, None] for i in range(3))
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    triangles = np.maximum(0, np.minimum(rising, falling))
    empty = np.flatnonzero(triangles.sum(1) == 0)
    triangles[empty, np.abs(frequencies - centre[empty]).argmin(1)] = 1
    return (triangles / triangles.sum(1, keepdims=True)).astype(np.float32)
