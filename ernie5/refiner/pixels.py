"""Pixels of films, uint8 [frames, height, width, 3]: their size, their range, how good they are. NumPy and Pillow."""

import numpy as np
from PIL import Image


def to_float(pixels: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [-1, 1]."""
    return pixels.astype(np.float32) / 127.5 - 1


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Floats in [-1, 1], others clipped, -> uint8."""
    return np.rint((np.clip(pixels, -1, 1) + 1) * 127.5).astype(np.uint8)


def resize(frames: np.ndarray, height: int, width: int, filter: Image.Resampling) -> np.ndarray:
    """uint8 [frames, *, *, 3] -> uint8 [frames, height, width, 3] by one of Pillow's filters."""
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height), filter)) for frame in frames])


def upsample(frames: np.ndarray, scale: int) -> np.ndarray:
    """uint8 [frames, h, w, 3] -> [frames, h * scale, w * scale, 3], bicubic (a = -1/2)."""
    return resize(frames, frames.shape[1] * scale, frames.shape[2] * scale, Image.Resampling.BICUBIC)


def area_mean(frames: np.ndarray, scale: int) -> np.ndarray:
    """[frames, height, width, 3], multiples of scale, -> float32 [frames, height / scale, width / scale, 3]."""
    num, height, width, channels = frames.shape
    cells = frames.reshape(num, height // scale, scale, width // scale, scale, channels)
    return cells.mean((2, 4), dtype=np.float32)


def fit_short_side(frames: np.ndarray, short_side: int) -> np.ndarray:
    """Made smaller, so that the shorter side is `short_side` pixels (Lanczos)."""
    height, width = frames.shape[1:3]
    share = short_side / min(height, width)
    size = max(round(height * share), short_side), max(round(width * share), short_side)
    return resize(frames, *size, Image.Resampling.LANCZOS)


def psnr(made: np.ndarray, original: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 pixels of one shape; 100 for equal ones."""
    error = np.mean((made.astype(np.float64) - original) ** 2)
    return min(100.0, 10 * np.log10(255.0**2 / error)) if error else 100.0


def edges(frames: np.ndarray) -> float:
    """Mean length of the brightness gradient between neighbours, of 255: how sharp a picture is (noise counts too)."""
    grey = frames.astype(np.float64).mean(-1)
    down, right = grey[:, 1:, :-1] - grey[:, :-1, :-1], grey[:, :-1, 1:] - grey[:, :-1, :-1]
    return float(np.hypot(down, right).mean())


def flicker(made: np.ndarray, original: np.ndarray) -> float:
    """How much more or less than the original's a film's pixels change from frame to frame: mean error, of 255."""
    change = np.diff(made.astype(np.float64), axis=0) - np.diff(original.astype(np.float64), axis=0)
    return float(np.abs(change).mean()) if len(made) > 1 else 0.0
