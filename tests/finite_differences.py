"""Derivatives without autograd."""

from collections.abc import Callable

import numpy as np


def numeric_gradient(function: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences of a scalar function in float64, one coordinate at a time."""
    gradient = np.zeros_like(at, dtype=np.float64)
    for index in np.ndindex(at.shape):
        ahead, behind = (np.array(at, np.float64) for _ in range(2))
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (function(ahead) - function(behind)) / (2 * step)
    return gradient
