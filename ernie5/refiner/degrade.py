"""An original becomes the low resolution that a backbone might have made, of a known strength. NumPy and Pillow."""

import io

import numpy as np
from PIL import Image, ImageFilter

from ernie5.config.refiner import MAX_JPEG_QUALITY, DegradationConfig
from ernie5.refiner.pixels import area_mean


def degrade(
    original: np.ndarray, scale: int, strength: float, config: DegradationConfig, rng: np.random.Generator
) -> np.ndarray:
    """uint8 [frames, height, width, 3], multiples of scale, -> uint8 [frames, height / scale, width / scale, 3].

    Blur, area mean, cells of wrong colour, noise, JPEG; `strength` in [0, 1] scales each, and 0 is the area mean alone.
    What is drawn is a function of `rng`'s state; every frame draws its own, as the codes of every frame err alone.
    """
    low = area_mean(_blur(original, strength * config.blur), scale)
    if strength > 0:
        low += _wrong_cells(low.shape, strength * config.block_share, config, rng)
        low += strength * config.noise * rng.standard_normal(low.shape, np.float32)
    low = np.rint(np.clip(low, 0, 255)).astype(np.uint8)
    if strength > 0 and config.jpeg_quality:
        quality = round(MAX_JPEG_QUALITY - strength * (MAX_JPEG_QUALITY - config.jpeg_quality))
        low = np.stack([_jpeg(frame, quality) for frame in low])
    return low


def _blur(frames: np.ndarray, sigma: float) -> np.ndarray:
    if sigma == 0:
        return frames
    return np.stack([np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(sigma))) for frame in frames])


def _wrong_cells(
    shape: tuple[int, ...], share: float, config: DegradationConfig, rng: np.random.Generator
) -> np.ndarray:
    """float32 of `shape`: an offset, one colour a cell, in this share of the cells; 0 elsewhere."""
    num, height, width, channels = shape
    size = config.block_size
    cells = num, -(-height // size), -(-width // size)
    offsets = rng.uniform(-config.block_offset, config.block_offset, (*cells, channels)).astype(np.float32)
    offsets *= (rng.random(cells) < share)[..., None]
    return offsets.repeat(size, 1).repeat(size, 2)[:, :height, :width]


def _jpeg(frame: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
