"""Batches of pictures and films from media in memory. NumPy only."""

from collections.abc import Iterable, Sequence

import numpy as np

from ernie5.errors import UserError

Size = tuple[int, int]  # height, width


class MediaSampler:
    """Media of several sizes; a batch is of one size, drawn by how many media it has."""

    def __init__(self, media: Iterable[np.ndarray]):
        """media: uint8 [frames, height, width, 3] each. Raises UserError if there is none."""
        self._by_size: dict[Size, list[np.ndarray]] = {}
        self._long: dict[int, dict[Size, list[np.ndarray]]] = {}  # by number of frames
        for medium in media:
            self._by_size.setdefault(medium.shape[1:3], []).append(medium)
        if not self._by_size:
            raise UserError("data.train holds no picture and no film: name a folder or a manifest that does")

    def pictures(self, rng: np.random.Generator, batch_size: int) -> np.ndarray:
        """Single frames of random media, uint8 [batch_size, 1, height, width, 3]."""
        chosen = _choose(self._by_size, rng, batch_size)
        return np.stack([_cut(medium, rng, 1) for medium in chosen])

    def films(self, rng: np.random.Generator, batch_size: int, num_frames: int) -> np.ndarray:
        """Pieces of random films, uint8 [batch_size, num_frames, height, width, 3]. UserError if none is so long."""
        chosen = _choose(self.find_long(num_frames), rng, batch_size)
        return np.stack([_cut(film, rng, num_frames) for film in chosen])

    def find_long(self, num_frames: int) -> dict[Size, list[np.ndarray]]:
        """The films of at least so many frames, by their size; they are looked for once. UserError if there is none."""
        if num_frames not in self._long:
            by_size = {
                size: films
                for size, media in self._by_size.items()
                if (films := [medium for medium in media if len(medium) >= num_frames])
            }
            if not by_size:
                raise UserError(
                    f"data.train holds no film of {num_frames} frames: set train.video_steps=0, lower "
                    "train.video_frames, or give longer films"
                )
            self._long[num_frames] = by_size
        return self._long[num_frames]


def to_pixels(media: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [-1, 1], any shape."""
    return media.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """The inverse of `to_pixels`; what lies outside [-1, 1] is cut off."""
    return np.clip(np.rint((pixels + 1) * 127.5), 0, 255).astype(np.uint8)


def _choose(by_size: dict[Size, list[np.ndarray]], rng: np.random.Generator, number: int) -> Sequence[np.ndarray]:
    sizes = list(by_size)
    counts = np.array([len(by_size[size]) for size in sizes])
    media = by_size[sizes[rng.choice(len(sizes), p=counts / counts.sum())]]
    return [media[i] for i in rng.integers(len(media), size=number)]


def _cut(medium: np.ndarray, rng: np.random.Generator, num_frames: int) -> np.ndarray:
    start = rng.integers(len(medium) - num_frames + 1)
    return medium[start : start + num_frames]
