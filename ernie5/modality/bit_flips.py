"""Corruption of visual history in training: which bits of earlier scales and frames are inverted. NumPy only.

The backbone then learns to go on from its own mistakes (report §2.2.3; arXiv:2412.04431 §3.3). Rates grow with time as
errors do, and a frame starts where the one before it ended (arXiv:2601.05966, cross-frame error correction).
"""

from collections.abc import Sequence

import numpy as np

from ernie5.config.schema import VisionDataConfig

MAX_RATE = 0.5  # beyond it a bit would tell more by its inverse


def flip_rates(num_frames: int, num_scales: int, config: VisionDataConfig, rng: np.random.Generator) -> np.ndarray:
    """float64 [frames, scales]: the probability that a bit is inverted, at most 0.5.

    Frame f draws each scale's rate from [min + step f, max + step f]; the first scale of a later frame from
    [rate of the last scale of frame f - 1, max + step f].
    """
    rates = np.empty([num_frames, num_scales])
    for frame in range(num_frames):
        low = np.full(num_scales, config.flip_min + config.flip_step * frame)
        if frame:
            low[0] = rates[frame - 1, -1]
        high = config.flip_max + config.flip_step * frame
        rates[frame] = np.clip(rng.uniform(low, high), 0, MAX_RATE)
    return rates


def draw_flips(
    rates: np.ndarray, scales: Sequence[Sequence[int]], num_bits: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """rates [frames, scales] -> for each scale uint8 [frames, h_k, w_k, num_bits], 1 where a bit is inverted."""
    drawn = []
    for (height, width), rate in zip(scales, rates.T, strict=True):
        uniform = rng.random([len(rates), height, width, num_bits], dtype=np.float32)
        drawn.append((uniform < rate[:, None, None, None]).astype(np.uint8))
    return drawn
