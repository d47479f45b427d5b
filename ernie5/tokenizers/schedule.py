"""The learning rate of tokenizers in training."""

import math

FLOOR = 0.05  # share of the peak that it ends at


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Share of the peak at `step` of `steps`: a linear warmup, at most half of the steps, then half a cosine."""
    warmup = min(warmup, steps // 2)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2
