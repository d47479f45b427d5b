"""Pairs to learn from: cuts of originals, and what a degraded low resolution says of them. NumPy and Pillow only."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ernie5.config.refiner import RefinerConfig, RefinerTrainConfig
from ernie5.refiner.degrade import degrade
from ernie5.refiner.pixels import to_float, upsample

MEASURED = 256  # cuts from which the detail's standard deviation is taken


class Pairs(NamedTuple):
    """A batch of cuts of one size."""

    original: np.ndarray  # float32 [batch, frames, height, width, 3] in [-1, 1]
    upsampled: np.ndarray  # the same of the degraded input, bicubic
    strength: np.ndarray  # float32 [batch]: of the degradation, uniform in [0, 1)


def draw_pairs(
    originals: Sequence[np.ndarray],
    refiner: RefinerConfig,
    train: RefinerTrainConfig,
    num_frames: int,
    rng: np.random.Generator,
) -> Pairs:
    """Random cuts of random originals (uint8 [frames, height, width, 3]), each degraded by a strength of its own.

    As many as make `train.batch_size` frames; originals are as large as `train.crop` and have `num_frames` frames.
    """
    batch = -(-train.batch_size // num_frames)
    cuts, upsampled = [], []
    strength = rng.random(batch, np.float32)
    for i, which in enumerate(rng.integers(len(originals), size=batch)):
        cut = _cut(originals[which], train, num_frames, rng)
        low = degrade(cut, refiner.scale, float(strength[i]), refiner.degradation, rng)
        cuts.append(to_float(cut))
        upsampled.append(to_float(upsample(low, refiner.scale)))
    return Pairs(np.stack(cuts), np.stack(upsampled), strength)


def measure_detail(
    originals: Sequence[np.ndarray], refiner: RefinerConfig, train: RefinerTrainConfig, rng: np.random.Generator
) -> float:
    """Standard deviation of original - upsampled over cuts of pictures; at least that of one grey level."""
    squares = []
    while len(squares) * train.batch_size < MEASURED:
        pairs = draw_pairs(originals, refiner, train, 1, rng)
        squares.append(np.mean((pairs.original - pairs.upsampled) ** 2))
    return max(float(np.sqrt(np.mean(squares))), 1 / 127.5)


def _cut(original: np.ndarray, train: RefinerTrainConfig, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    free = np.subtract(original.shape[:3], (num_frames, train.crop, train.crop))
    first, top, left = rng.integers(free + 1)
    cut = original[first : first + num_frames, top : top + train.crop, left : left + train.crop]
    return cut[:, :, ::-1] if train.mirror and rng.random() < 0.5 else cut
