"""What the judge of speech practises on: words put together to phrases and varied, as spectrograms.

A few voices have to stand for all: what differs between voices and rooms, and says nothing of the words, is drawn anew
for every phrase.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ernie5.tokenizers.audio.losses import mel_bank

BANDS = 40
HOP_SECONDS = 0.02  # of a column; its window is twice as long
MULTIPLE = 8  # of columns, by which the network counts
FLOOR = 10 ** (-35 / 20)  # of the loudest place of a clip: what is softer is silence, whatever the room
LEVEL, SMALLEST_LEVEL = 0.15, 1e-7  # root mean square of the loudest 40 ms
POOL = 8  # batches that are drawn together


@dataclass(frozen=True, kw_only=True)
class Variety:
    """How widely phrases are varied. With wider ranges the judge learns less in its short time."""

    phrases: float = 0.4  # share of what is heard that has two or three words
    speed: float = 1.25  # largest factor by which a word is played faster or slower, its pitch with it
    gain: float = 1.4  # of a word, at most
    lead: float = 0.12  # seconds of silence before the first word at most
    pause: float = 0.15  # and behind each
    joined: float = 0.3  # share of pauses that are next to none
    noise: tuple[float, float] = (5.0, 45.0)  # dB below the loudest place
    formants: float = 0.1  # largest change of the frequencies of bands, as a share, which a throat's length makes
    hidden_bands: float = 0.1  # largest share of neighbouring bands that are blanked


class Phrase(NamedTuple):
    """A varied spectrogram and what is said in it."""

    mel: np.ndarray  # float32 [columns, BANDS]
    digits: str


def log_mel(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """float32 [samples], at least one -> float32 [columns, BANDS], each band's mean over the clip taken off.

    So a loud and a soft clip look alike, and so do microphones. Columns are a multiple of MULTIPLE: silence is put
    behind.
    """
    hop = round(HOP_SECONDS * sample_rate)
    columns = -(-len(waveform) // (hop * MULTIPLE)) * MULTIPLE
    padded = np.pad(waveform, (hop // 2, (columns + 1) * hop - hop // 2 - len(waveform)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop)[::hop] * np.hanning(2 * hop + 1)[:-1]
    magnitudes = np.abs(np.fft.rfft(windows)) @ _mel_bank(sample_rate, 2 * hop).T
    mel = np.log(magnitudes / (magnitudes.max() + SMALLEST_LEVEL) + FLOOR)
    return (mel - mel.mean(axis=0)).astype(np.float32)


@lru_cache(maxsize=4)
def _mel_bank(sample_rate: int, window: int) -> np.ndarray:
    """Triangles over the mel scale, float32 [BANDS, window / 2 + 1]."""
    return mel_bank(sample_rate, window, BANDS).numpy()


def practice(
    clips: Sequence[tuple[np.ndarray, str]],
    batch_size: int,
    sample_rate: int,
    variety: Variety,
    rng: np.random.Generator,
) -> Iterator[list[Phrase]]:
    """Batches of phrases without end, the phrases of a batch about as long as each other."""
    while True:
        pool = [_phrase(clips, sample_rate, variety, rng) for _ in range(POOL * batch_size)]
        pool.sort(key=lambda phrase: len(phrase.mel))
        for start in rng.permutation(POOL) * batch_size:
            yield pool[start : start + batch_size]


def _phrase(
    clips: Sequence[tuple[np.ndarray, str]], sample_rate: int, variety: Variety, rng: np.random.Generator
) -> Phrase:
    """One to three clips one after the other, in noise; a clip of several digits makes it the shorter."""
    wanted = int(rng.integers(2, 4)) if rng.random() < variety.phrases else 1
    parts, digits = [_silence(variety.lead, sample_rate, rng)], ""
    while len(digits) < wanted:
        sound, said = clips[rng.integers(len(clips))]
        digits += said
        pause = 0.01 if rng.random() < variety.joined else variety.pause
        parts += [_varied(sound, variety, sample_rate, rng), _silence(pause, sample_rate, rng)]
    waveform = np.concatenate(parts)
    loudness = LEVEL * 10 ** (-rng.uniform(*variety.noise) / 20)
    waveform += loudness * _noise(len(waveform), rng)
    return Phrase(_other_throat(log_mel(waveform, sample_rate), variety, rng), digits)


def _silence(seconds: float, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    return np.zeros(int(rng.uniform(0, seconds) * sample_rate))


def _varied(sound: np.ndarray, variety: Variety, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Played faster or slower, and about as loud as every other."""
    samples = max(int(len(sound) / variety.speed ** rng.uniform(-1, 1)), 1)
    played = np.interp(np.linspace(0, len(sound) - 1, samples), np.arange(len(sound)), sound)
    window = round(2 * HOP_SECONDS * sample_rate)
    power = np.add.reduceat(np.square(played), np.arange(0, samples, window)).max() / window
    return played * (LEVEL / (np.sqrt(power) + SMALLEST_LEVEL) * variety.gain ** rng.uniform(-1, 1))


def _noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """float64 [samples] with mean square 1: white, or half of the time as deep as a car's."""
    noise = rng.standard_normal(samples)
    if rng.random() < 0.5:
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), samples / 160), samples)
    return noise / (np.sqrt(np.square(noise).mean()) + SMALLEST_LEVEL)


def _other_throat(mel: np.ndarray, variety: Variety, rng: np.random.Generator) -> np.ndarray:
    """Bands moved, as by the length of a throat (Jaitly and Hinton 2013), and some blanked (arXiv:1904.08779)."""
    numbers = np.arange(BANDS)
    places = np.clip(numbers * (1 + rng.uniform(-variety.formants, variety.formants)), 0, BANDS - 1)
    mix = np.maximum(0, 1 - np.abs(places[:, None] - numbers)).astype(np.float32)
    first = rng.integers(0, BANDS)
    mix[first : first + rng.integers(0, 1 + int(variety.hidden_bands * BANDS))] = 0
    return mel @ mix.T
