"""Pictures of what codecs make of speech: quality over bits, and spectrograms of one clip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 2  # of spectrograms
RATES = (100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)  # bits a second that an axis names


@dataclass(frozen=True, kw_only=True)
class Point:
    """What a codec makes of speech at one rate: means over clips."""

    name: str
    maker: str  # whose points are one curve
    bits_per_second: float
    si_sdr: float
    mel_distance: float
    wrong: float | None  # share of digits, None without a judge


def save_curves(points: Sequence[Point], original: float | None, path: Path) -> None:
    """Mel distance over bits; beside it, if a judge heard them, the share of digits that are wrong.

    original: that share of the originals, None without a judge.
    """
    from matplotlib.figure import Figure

    is_judged = original is not None
    figure = Figure(figsize=(11 if is_judged else 6, 4.2), layout="constrained")
    axes = figure.subplots(1, 1 + is_judged, squeeze=False)[0]
    _curves(axes[0], [(point, point.mel_distance) for point in points], "mel distance, dB")
    if is_judged:
        _curves(axes[1], [(point, 100 * point.wrong) for point in points], "digits wrong, %")
        axes[1].axhline(100 * original, color="grey", linestyle="--", label="originals")
    axes[-1].legend()
    figure.savefig(path, dpi=110)


def _curves(axes: "Axes", values: Sequence[tuple[Point, float]], label: str) -> None:
    for maker in dict.fromkeys(point.maker for point, _ in values):
        own = [(point.bits_per_second, value) for point, value in values if point.maker == maker]
        axes.plot(*zip(*own, strict=True), marker="o", label=maker)
    axes.set_xscale("log")
    low, high = (edge(point.bits_per_second for point, _ in values) for edge in (min, max))
    axes.set_xticks([rate for rate in RATES if low / 1.5 <= rate <= 1.5 * high], minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("bits per second")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def save_spectrograms(sounds: Mapping[str, np.ndarray], sample_rate: int, path: Path) -> None:
    """Mel spectrograms of sounds by their names, float32 [samples] each."""
    from matplotlib.figure import Figure

    from ernie5.tokenizers.audio.samples import spectrogram

    rows = -(-len(sounds) // COLUMNS)
    figure = Figure(figsize=(10, 1.9 * rows), layout="constrained")
    places = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True).ravel()
    for axes, (name, sound) in zip(places, sounds.items(), strict=False):
        seconds = len(sound) / sample_rate
        picture = spectrogram(sound, sample_rate).astype(np.uint8)
        axes.imshow(picture, aspect="auto", extent=(0, seconds, 0, 1), interpolation="nearest")
        axes.set_title(name, fontsize=9)
        axes.set_yticks([])
    for axes in places[len(sounds) :]:
        axes.axis("off")
    for axes in places[max(0, len(sounds) - COLUMNS) : len(sounds)]:
        axes.set_xlabel("seconds")
        axes.tick_params(labelbottom=True)
    figure.savefig(path, dpi=110)
