"""Overlapping windows over a film, so that a network of bounded memory sees all of it. NumPy only.

Each axis is cut apart. Pixels within the network's reach of a cut are seen but not used; past it neighbouring windows
are mixed over a ramp. The weights of an axis sum to 1 at every place, so their products sum to 1 at every pixel.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ernie5.config.refiner import RefinerConfig
from ernie5.errors import UserError

MAX_PIXELS = 1 << 20  # pixels times frames that the network sees at once: 1.5 GB with channels of [24, 48]
RAMP = 16  # pixels over which neighbouring windows are mixed: group norms see a window, so they differ a little
LEAST = 1 << 14  # of a limit: windows of less are all edge

Look = Callable[[tuple[slice, slice, slice]], np.ndarray]  # frames, rows, columns -> float32 of that shape and 3


class Span(NamedTuple):
    """A window along one axis."""

    where: slice
    weight: np.ndarray  # float32 of its length


class Plan(NamedTuple):
    """The spans of frames, rows and columns."""

    frames: list[Span]
    rows: list[Span]
    columns: list[Span]


def reach(config: RefinerConfig) -> tuple[int, int]:
    """How far from a pixel the network looks, in frames and in pixels, the latter a multiple of the stride.

    Convolutions alone: group norms see all that they are given.
    """
    deepest = len(config.channels) - 1
    of_level = 2 * config.blocks_per_level  # convolutions, each one pixel of its level
    pixels = 2 + 2**deepest * (of_level + 1) + sum(2**level * (2 * of_level + 1) for level in range(deepest))
    return 2 * deepest + 1, math.ceil(pixels / config.stride) * config.stride


def plan(shape: tuple[int, int, int], config: RefinerConfig, max_pixels: int) -> Plan:
    """Windows of at most `max_pixels` over frames, rows and columns; one window if all of it is not more.

    Rows and columns begin at multiples of the stride. Where the network's reach is more than a quarter of a window, a
    quarter is left unused. Raises UserError for a limit that is too low.
    """
    if max_pixels < LEAST:
        raise UserError(f"max_pixels is {max_pixels}: give at least {LEAST}")
    num_frames, height, width = shape
    if num_frames * height * width <= max_pixels:
        return Plan(*(spans(length, length, 0, 0) for length in shape))
    of_frames, of_pixels = reach(config)
    deep = min(num_frames, 4 * of_frames + 1)  # at least half of what is seen is used
    side = math.isqrt(max_pixels // deep) // config.stride * config.stride
    context = min(of_pixels, side // 4 // config.stride * config.stride)
    ramp = min(RAMP, side // 4) // config.stride * config.stride
    high, wide = min(height, side), min(width, side)
    deep = min(num_frames, max_pixels // (high * wide))
    return Plan(spans(num_frames, deep, of_frames, 0), *(spans(n, side, context, ramp) for n in (height, width)))


def spans(length: int, size: int, context: int, ramp: int) -> list[Span]:
    """Spans of `size` that cover an axis, one of `length` if that is not more.

    At cuts `context` places are not used; over the next `ramp` the weight rises.
    """
    if length <= size:
        return [Span(slice(0, length), np.ones(length, np.float32))]
    step = size - 2 * context - ramp
    starts = [*range(0, length - size, step), length - size]
    rising = np.clip((np.arange(size) - context + 1) / (ramp + 1), 0, 1)
    weights, total = [], np.zeros(length)
    for start in starts:
        weight = np.ones(size)
        if start > 0:
            weight = np.minimum(weight, rising)
        if start + size < length:
            weight = np.minimum(weight, rising[::-1])
        weights.append(weight)
        total[start : start + size] += weight
    places = [slice(start, start + size) for start in starts]
    return [
        Span(place, (weight / total[place]).astype(np.float32)) for place, weight in zip(places, weights, strict=True)
    ]


def mixed(look: Look, windows: Plan, shape: tuple[int, ...]) -> np.ndarray:
    """float32 of `shape`, [frames, height, width, 3]: what `look` says of every window, by their weights."""
    if all(len(axis) == 1 for axis in windows):
        return look(tuple(axis[0].where for axis in windows))
    made = np.zeros(shape, np.float32)
    for frames in windows.frames:
        for rows in windows.rows:
            for columns in windows.columns:
                where = frames.where, rows.where, columns.where
                weight = frames.weight[:, None, None] * rows.weight[:, None] * columns.weight
                made[where] += look(where) * weight[..., None]
    return made
