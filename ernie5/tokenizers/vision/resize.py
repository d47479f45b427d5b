"""Resizing a grid as two matrix products: the area mean downwards, bilinear upwards.

Written as matrices, the same numbers come out of NumPy, Paddle and any export, whose own operators differ at edges.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import paddle


@lru_cache
def resize_matrix(to: int, of: int, kind: Literal["down", "up"]) -> np.ndarray:
    """float32 [to, of] (read-only), whose product with `of` cells gives `to` cells; each row sums to 1.

    down: the mean over the interval that a new cell covers, at any ratio: an old cell counts by its overlap.
    up: linear between the centres of the old cells, constant beyond the outer ones (half pixels, corners not aligned).
    """
    if kind == "down":
        edges = np.arange(to + 1) * of / to
        cells = np.arange(of)
        overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
        matrix = np.maximum(overlap, 0) * to / of
    else:
        centres = np.clip((np.arange(to) + 0.5) * of / to - 0.5, 0, of - 1)
        matrix = np.maximum(1 - np.abs(centres[:, None] - np.arange(of)), 0)
    matrix = matrix.astype(np.float32)
    matrix.setflags(write=False)
    return matrix


def resize(x: paddle.Tensor, size: Sequence[int]) -> paddle.Tensor:
    """x [N, H, W, d] -> [N, h, w, d] for size (h, w): each axis by the mean if it shrinks, bilinear if it grows."""
    num, height, width, dim = x.shape
    to_height, to_width = size
    if to_height != height:
        x = paddle.matmul(_matrix(to_height, height, x.dtype), x.reshape([num, height, width * dim]))
    if to_width != width:
        x = paddle.matmul(_matrix(to_width, width, x.dtype), x.reshape([num * to_height, width, dim]))
    return x.reshape([num, to_height, to_width, dim])


def _matrix(to: int, of: int, dtype: paddle.dtype) -> paddle.Tensor:
    return paddle.to_tensor(resize_matrix(to, of, "down" if to < of else "up")).astype(dtype)
