"""Pictures and films as pixels, uint8 [frames, height, width, 3], read from files and brought to a size."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ernie5.config.schema import ResolutionConfig
from ernie5.data.films import read_video
from ernie5.data.pictures import read_image
from ernie5.errors import UserError

__all__ = ["fit_native", "fit_resolution", "native_size", "nearest_resolution", "read_image", "read_video"]


def nearest_resolution(height: int, width: int, resolutions: Sequence[ResolutionConfig]) -> ResolutionConfig:
    """The one of the nearest aspect ratio, by the logarithm; of several with that shape the nearest in size."""

    def distance(resolution: ResolutionConfig) -> tuple[float, float]:
        shape = math.log(resolution.height / resolution.width) - math.log(height / width)
        size = math.log(resolution.height * resolution.width) - math.log(height * width)
        return abs(shape), abs(size)

    return min(resolutions, key=distance)


def fit_resolution(frames: np.ndarray, resolutions: Sequence[ResolutionConfig]) -> np.ndarray:
    """The frames at the nearest resolution: resized to cover it, what stands over cut off evenly at both sides.

    `frames` and the result are uint8 [frames, height, width, 3]. Frames of that size are returned as they are.
    """
    height, width = frames.shape[1:3]
    resolution = nearest_resolution(height, width, resolutions)
    scale = max(resolution.height / height, resolution.width / width)
    cut = ((width - resolution.width / scale) / 2, (height - resolution.height / scale) / 2)  # left, top
    return _resize(frames, resolution.height, resolution.width, (max(cut[0], 0.0), max(cut[1], 0.0)))


def fit_native(frames: np.ndarray, multiple: int, max_pixels: int) -> np.ndarray:
    """The frames in their own shape: height and width the nearest multiples, at most `max_pixels` in a frame.

    `frames` and the result are uint8 [frames, height, width, 3]. Small ones are not made larger than their multiples.
    """
    return _resize(frames, *native_size(*frames.shape[1:3], multiple, max_pixels))


def native_size(height: int, width: int, multiple: int, max_pixels: int) -> tuple[int, int]:
    """The size (height, width) that `fit_native` gives. Raises UserError if no square of `multiple` fits the limit."""
    if max_pixels < multiple**2:
        raise UserError(
            f"model.vision.max_understanding_pixels is {max_pixels}: one token takes {multiple} x {multiple} pixels, "
            f"give at least {multiple**2}"
        )
    cells = [max(round(side / multiple), 1) for side in (height, width)]
    most = max_pixels // multiple**2
    if cells[0] * cells[1] > most:
        scale = math.sqrt(max_pixels / (height * width)) / multiple
        # Of a strip the shorter side is one cell, more than its share; then the longer one has all the cells there are.
        cells = [min(max(int(side * scale), 1), most) for side in (height, width)]
    return cells[0] * multiple, cells[1] * multiple


def _resize(frames: np.ndarray, height: int, width: int, cut: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Bicubic, with antialiasing when smaller; `cut`: pixels left out at the left and right, and at top and bottom."""
    if frames.shape[1:3] == (height, width):
        return frames
    box = (cut[0], cut[1], frames.shape[2] - cut[0], frames.shape[1] - cut[1])
    resized = np.empty((len(frames), height, width, 3), dtype=np.uint8)
    for frame, target in zip(frames, resized, strict=True):
        target[:] = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box=box)
    return resized
