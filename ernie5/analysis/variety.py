"""How different drawings of digits are: from each other, from the scans they were learned from, from real ones.

Pictures are compared as the leading principal components of centred training scans: strokes lie there, noise hardly
does, so that copies do not pass for different hands because each has another noise.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from ernie5.analysis.digits import centred, grey
from ernie5.data.digits.render import CELL, draw_glyphs, picture_glyph
from ernie5.data.digits.scans import Split, load_scans, split_scans

COMPONENTS = 20  # of 256; they hold nine tenths of the variance of real scans, and a thirteenth of that of white noise
DUPLICATE = 14.0  # greys; about one in a hundred real pictures is as near to another of its digit


class Diversity(NamedTuple):
    """Of pictures, in greys (0 to 255, root mean square over the pixels); compare with those of real pictures."""

    nearest_train: float  # to the nearest training scan, mean; of as many as the judge has
    nearest_unseen: float  # to the nearest of the judge's scans, which no model sees; as far, if nothing was copied
    closer_to_train: float  # share of the pictures that are nearer to a training scan; a half, if nothing was copied
    closest_1_percent: float  # to the nearest of all training scans, quantile: a few copies show here
    closest_5_percent: float
    class_deviation: float  # root of the variance within a digit, mean over the digits; small: all alike
    near_duplicates: float  # share that another picture of the same digit resembles within DUPLICATE
    uncovered: float | None  # from a held-out scan to the nearest picture of its digit, mean; large: hands are missing


def diversity(pictures: np.ndarray, digits: np.ndarray) -> Diversity:
    """Of pictures uint8 [pictures, 16, 16, 3] of `digits` int64 [pictures]."""
    drawn = _components(grey(pictures))
    train, seen, unseen = _scans_of("train"), _scans_of("train", _judge_counts()), _scans_of("judge", _judge_counts())
    to_seen, to_unseen = _distances(drawn, seen[0]).min(1), _distances(drawn, unseen[0]).min(1)
    closest = np.quantile(_distances(drawn, train[0]).min(1), [0.01, 0.05])
    variances, duplicates, uncovered = [], 0, []
    held_out, held_out_digits = _scans_of("test")
    for digit in np.unique(digits):
        same = drawn[digits == digit]
        variances.append(same.var(axis=0).sum() / CELL**2)
        between = _distances(same, same) + np.where(np.eye(len(same), dtype=bool), np.inf, 0)
        duplicates += int((between.min(1) < DUPLICATE).sum())
        uncovered.append(_distances(held_out[held_out_digits == digit], same).min(1))
    return Diversity(
        nearest_train=float(to_seen.mean()),
        nearest_unseen=float(to_unseen.mean()),
        closer_to_train=float((to_seen < to_unseen).mean()),
        closest_1_percent=float(closest[0]),
        closest_5_percent=float(closest[1]),
        class_deviation=float(np.sqrt(np.mean(variances))),
        near_duplicates=duplicates / len(drawn),
        uncovered=float(np.concatenate(uncovered).mean()),
    )


def real_pictures(split: Split, per_digit: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of a split's scans, varied as in training: uint8 [pictures, 16, 16, 3] and digits int64 [pictures].

    What drawings are measured beside: as many of each digit, all of different scans up to `smallest_class`.
    """
    scans = load_scans()
    ids, rng = split_scans(scans)[split], np.random.default_rng(seed)
    chosen = np.concatenate(
        [np.resize(rng.permutation(ids[scans.digits[ids] == digit]), per_digit) for digit in range(10)]
    )
    drawn = draw_glyphs(scans.pixels, [picture_glyph(i, CELL / 2, CELL / 2, rng) for i in chosen], CELL, CELL)
    return np.repeat(drawn[..., None], 3, axis=-1), scans.digits[chosen]


def smallest_class(split: Split) -> int:
    """Scans of the rarest digit in a split."""
    scans = load_scans()
    return int(np.bincount(scans.digits[split_scans(scans)[split]], minlength=10).min())


def _judge_counts() -> tuple[int, ...]:
    scans = load_scans()
    return tuple(np.bincount(scans.digits[split_scans(scans)["judge"]], minlength=10).tolist())


@cache
def _scans_of(split: Split, per_digit: tuple[int, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Components float64 [scans, COMPONENTS] and digits of a split's scans as they are, or of so many of each digit."""
    scans = load_scans()
    ids = split_scans(scans)[split]
    if per_digit:
        ids = np.concatenate([ids[scans.digits[ids] == digit][:count] for digit, count in enumerate(per_digit)])
    return _components(_draw_plain(ids)), scans.digits[ids]


def _draw_plain(ids: np.ndarray) -> np.ndarray:
    plain = [picture_glyph(i, CELL / 2, CELL / 2, None) for i in ids]
    return draw_glyphs(load_scans().pixels, plain, CELL, CELL).astype(np.float32) / 255


@cache
def _axes() -> np.ndarray:
    """The leading principal axes of the training scans, float64 [256, COMPONENTS]."""
    pixels = _comparable(_draw_plain(split_scans(load_scans())["train"]))
    return np.linalg.svd(pixels - pixels.mean(0), full_matrices=False)[2][:COMPONENTS].T


def _components(pictures: np.ndarray) -> np.ndarray:
    return _comparable(pictures) @ _axes()


def _comparable(pictures: np.ndarray) -> np.ndarray:
    """Centred greys in one row each; float64 [pictures, 256], 0 to 255, the brightest ink at 255."""
    flat = centred(pictures, 1.0).reshape(len(pictures), -1).astype(np.float64)
    return flat / np.maximum(flat.max(1, keepdims=True), 1e-6) * 255


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances [a, b] of components, per pixel: greys, root mean square."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0)) / CELL
