"""The judge of the digit world: which digit a picture shows, and where it moves.

It learns from the `judge` scans alone, which no model or tokenizer ever sees, and knows nothing of any model.
"""

from typing import Any, NamedTuple

import numpy as np

from ernie5.data.digits.render import (
    CELL,
    FILM_SCALE,
    PICTURE_SCALE,
    cubic_weights,
    draw_glyphs,
    film_glyph,
    picture_glyph,
)
from ernie5.data.digits.scans import load_scans, split_scans
from ernie5.data.digits.tasks import STEPS, TRAVEL

VARIANTS = 6  # renderings of each scan that the judge learns from; more change nothing
BLANK = 0.02  # mean brightness, of 1, below which a picture shows nothing; real ones have 0.12, films 0.05
# Cosine to the likest of the judge's scans below which nothing is read. Between what shows no digit (noise has up to
# 0.71; in films, smoothed by enlarging, a square up to 0.85) and the scans of the validation split (0.87 and more, with
# noise of 50 greys 0.79; in films 0.91, with noise of 25 greys 0.89).
PICTURE_LIKENESS, FILM_LIKENESS = 0.75, 0.86
FASTEST_SLOW = sum(TRAVEL.values()) / 2  # pixels from first to last frame; beyond, a film is fast
MIN_TRAVEL = min(TRAVEL.values()) / 2  # below, nothing moves
MAX_DRIFT = 0.5  # travel across the direction, of that along it
MAX_JITTER = 1.0  # pixels, root mean square, off a steady movement


class Motion(NamedTuple):
    """How films move. A film that is blank, stands still, jumps or runs askew has no direction ("") and no speed."""

    direction: np.ndarray  # str [films]: left, right, up, down or ""
    speed: np.ndarray  # str [films]: slow, fast or ""
    pixels_per_frame: np.ndarray  # float64 [films], along the direction


class Judge:
    """A support vector machine on centred pictures of 16 x 16 pixels."""

    def __init__(self, machine: Any, references: np.ndarray):
        self._machine = machine
        self._references = references  # features of the scans as they are, [scans, 256]

    @classmethod
    def train(cls) -> "Judge":
        """Learns from pictures and film frames of the judge's scans. The same judge every time, in a few seconds."""
        from sklearn.svm import SVC

        scans = load_scans()
        ids = split_scans(scans)["judge"]
        rng = np.random.default_rng(0)
        half = CELL / 2
        pictures = [picture_glyph(i, half, half, rng if k else None) for k in range(VARIANTS) for i in ids]
        frames = [film_glyph(i, half, half, rng if k else None) for k in range(VARIANTS // 2) for i in ids]
        drawn = [
            centred(draw_glyphs(scans.pixels, glyphs, CELL, CELL) / 255, zoom)
            for glyphs, zoom in ((pictures, 1.0), (frames, PICTURE_SCALE / FILM_SCALE))
        ]
        labels = scans.digits[[glyph.scan for glyph in pictures + frames]]
        features = _features(np.concatenate(drawn))
        machine = SVC(C=10, gamma="scale", decision_function_shape="ovo").fit(features, labels)
        return cls(machine, features[: len(ids)])

    def digit(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [pictures, 16, 16, 3] -> digits int64 [pictures], -1 where none can be read; confidence [pictures].

        Confidence (float64) is how clearly the digit wins against the one that resembles it most, in margins of the
        machine: about 1 for a clear one. No digit is read where none wins against every other one, and of what is
        blank or like no scan of the judge: there confidence is at most 0.
        """
        pictures = grey(pictures)
        margins, likeness = self._compare(pictures, 1.0)
        return self._decide(margins, likeness >= PICTURE_LIKENESS, pictures)

    def scene(self, pictures: np.ndarray) -> np.ndarray:
        """Scenes of two digits, uint8 [scenes, 16, 32, 3] or [scenes, 32, 16, 3] -> digits int64 [scenes, 2]."""
        axis = 1 if pictures.shape[1] > pictures.shape[2] else 2
        return np.stack([self.digit(half)[0] for half in np.split(pictures, 2, axis)], axis=1)

    def film_digit(self, films: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [films, frames, height, width, 3] -> digits and confidence as `digit`, over the frames together."""
        num_films, num_frames = films.shape[:2]
        frames = grey(films.reshape(-1, *films.shape[2:]))
        margins, likeness = self._compare(frames, PICTURE_SCALE / FILM_SCALE)
        margins = margins.reshape(num_films, num_frames, 10, 10).mean(1)
        likeness = likeness.reshape(num_films, num_frames).mean(1)
        return self._decide(margins, likeness >= FILM_LIKENESS, frames.reshape(num_films, -1, films.shape[3]))

    def _compare(self, pictures: np.ndarray, zoom: float) -> tuple[np.ndarray, np.ndarray]:
        """How clearly digit a wins against digit b, float64 [pictures, a, b], infinite where a is b; and likeness to
        the likest scan, [pictures].
        """
        margins = np.zeros((len(pictures), 10, 10))
        margins[:, range(10), range(10)] = np.inf
        likeness = np.zeros(len(pictures))
        if len(pictures):
            features = _features(centred(pictures, zoom))
            likeness = (features @ self._references.T).max(1)
            first, second = np.triu_indices(10, 1)  # the order of the machine's pairs
            decision = self._machine.decision_function(features)
            margins[:, first, second], margins[:, second, first] = decision, -decision
        return margins, likeness

    @staticmethod
    def _decide(margins: np.ndarray, is_like: np.ndarray, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        closest = margins.min(2)  # [pictures, 10]: against the strongest rival
        confidence = np.where(is_like, closest.max(1), np.minimum(closest.max(1), 0.0))
        confidence = np.where(pictures.mean(axis=(1, 2)) < BLANK, -1.0, confidence)
        return np.where(confidence > 0, closest.argmax(1), -1), confidence


def grey(pictures: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] -> brightness float32 [...], 0 to 1."""
    return pictures.astype(np.float32).mean(-1) / 255


def centroids(pictures: np.ndarray) -> np.ndarray:
    """Mean place of the ink, float [pictures, height, width] -> [pictures, 2] (row, column); of a blank the middle.

    Faint greys, below a quarter of the brightest, do not count: a grey veil would pull the mean to the middle.
    """
    brightest = pictures.max(axis=(1, 2), keepdims=True)
    ink = np.clip(pictures - brightest / 4, 0, None).astype(np.float64)
    total = ink.sum((1, 2))
    places = []
    for axis, size in ((2, pictures.shape[1]), (1, pictures.shape[2])):
        weighted = (ink.sum(axis) * (np.arange(size) + 0.5)).sum(1)
        places.append(np.where(total > 0, weighted / np.maximum(total, 1e-9), size / 2))
    return np.stack(places, axis=1)


def centred(pictures: np.ndarray, zoom: float) -> np.ndarray:
    """The ink moved to the middle and enlarged: float [pictures, height, width] -> [pictures, 16, 16]."""
    places = centroids(pictures)[:, :, None] + (np.arange(CELL) + 0.5 - CELL / 2) / zoom  # [pictures, 2, 16]
    rows = cubic_weights(places[:, 0].astype(np.float32), pictures.shape[1])
    columns = cubic_weights(places[:, 1].astype(np.float32), pictures.shape[2])
    return rows @ pictures.astype(np.float32) @ columns.transpose(0, 2, 1)


def _features(pictures: np.ndarray) -> np.ndarray:
    """Flat, and of the same length: brightness says nothing of the digit."""
    flat = pictures.reshape(len(pictures), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def motion(films: np.ndarray) -> Motion:
    """uint8 [films, frames, height, width, 3] -> how each moves, by a line through the centroids of its frames."""
    num_films, num_frames = films.shape[:2]
    if num_frames < 2:
        none = np.full(num_films, "", dtype="<U5")
        return Motion(none, none, np.zeros(num_films))
    frames = grey(films)
    places = centroids(frames.reshape(-1, *films.shape[2:4])).reshape(num_films, num_frames, 2)
    time = np.arange(num_frames) - (num_frames - 1) / 2
    middle = places.mean(1, keepdims=True)
    slope = (time[None, :, None] * (places - middle)).sum(1) / (time**2).sum()  # [films, 2] pixels a frame
    jitter = np.sqrt(((places - middle - time[None, :, None] * slope[:, None]) ** 2).sum(2).mean(1))
    axis = np.abs(slope).argmax(1)
    along = np.take_along_axis(slope, axis[:, None], 1)[:, 0]
    across = np.take_along_axis(slope, 1 - axis[:, None], 1)[:, 0]
    travel = np.abs(along) * (num_frames - 1)
    moves = (travel > MIN_TRAVEL) & (np.abs(across) < MAX_DRIFT * np.abs(along)) & (jitter < MAX_JITTER)
    moves &= (frames.mean((2, 3)) >= BLANK / 2).all(1)  # a film's digit is smaller
    direction = np.full(num_films, "", dtype="<U5")
    for name, step in STEPS.items():
        of_axis = int(np.flatnonzero(step)[0])
        direction[moves & (axis == of_axis) & (np.sign(along) == step[of_axis])] = name
    speed = np.where(moves, np.where(travel < FASTEST_SLOW, "slow", "fast"), "")
    return Motion(direction, speed, np.where(moves, np.abs(along), 0.0))
