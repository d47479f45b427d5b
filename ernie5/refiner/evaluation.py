"""How good refined pixels are beside bicubic ones, on held-out media; and a sheet to look at."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ernie5.refiner.degrade import degrade
from ernie5.refiner.pixels import edges, flicker, psnr, resize, upsample
from ernie5.refiner.refiner import Refiner

MAX_FRAMES = 8  # of a film that is scored
SHEET_ROWS = 8
GAP = 4  # pixels between pictures of the sheet


class Row(NamedTuple):
    """A held-out medium and what was made of it, uint8 [frames, height, width, 3]; `low` is smaller by the scale."""

    strength: float
    low: np.ndarray
    bicubic: np.ndarray
    mean: np.ndarray  # refined in one step: the mean over likely pictures
    sample: np.ndarray  # refined in more: one of them
    original: np.ndarray


class Evaluation(NamedTuple):
    """Scores by name, and what they are of."""

    scores: dict[str, float]
    rows: list[Row]


def evaluate(refiner: Refiner, held_out: Sequence[np.ndarray], sample_steps: int, seed: int) -> Evaluation:
    """Scores over media, degraded by strengths that are spread evenly over [0, 1]; a function of `seed`.

    `psnr_*` in dB, the mean over media; `edges_*` as shares of the originals' (1: as sharp); `flicker_*` the mean over
    films, of 255. Bicubic is what the network is given.
    """
    rows = []
    for i, original in enumerate(held_out):
        rows.append(refine_row(refiner, original, (i + 0.5) / len(held_out), sample_steps, (seed, 2, i)))
    films = [row for row in rows if len(row.original) > 1]
    sharp = float(np.mean([edges(row.original) for row in rows])) or 1.0
    scores = {}
    for kind in ("bicubic", "mean", "sample"):
        made = [getattr(row, kind) for row in rows]
        scores[f"psnr_{kind}"] = float(np.mean([psnr(a, row.original) for a, row in zip(made, rows, strict=True)]))
        scores[f"edges_{kind}"] = float(np.mean([edges(a) for a in made])) / sharp
        if films:
            scores[f"flicker_{kind}"] = float(np.mean([flicker(getattr(row, kind), row.original) for row in films]))
    return Evaluation(scores, rows)


def refine_row(
    refiner: Refiner, original: np.ndarray, strength: float, sample_steps: int, seed: tuple[int, ...]
) -> Row:
    """One medium, cut at the end to a multiple of the stride, degraded and refined."""
    stride = refiner.config.stride
    height, width = (side // stride * stride for side in original.shape[1:3])
    original = original[:MAX_FRAMES, :height, :width]
    rng = np.random.default_rng(seed)
    low = degrade(original, refiner.config.scale, strength, refiner.config.degradation, rng)
    return Row(
        strength=strength,
        low=low,
        bicubic=upsample(low, refiner.config.scale),
        mean=refiner.refine(low, strength, num_steps=1, seed=seed[0]),
        sample=refiner.refine(low, strength, num_steps=sample_steps, seed=seed[0]),
        original=original,
    )


def write_sheet(path: Path, rows: Sequence[Row]) -> None:
    """A PNG, a medium's first frame a row: input | refined | original | bicubic. Rows are spread over the strengths."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SHEET_ROWS)).round().astype(int))
    strips = []
    for row in (rows[i] for i in chosen):
        height, width = row.original.shape[1:3]
        enlarged = resize(row.low[:1], height, width, Image.Resampling.NEAREST)
        strips.append([frames[0] for frames in (enlarged, row.sample, row.original, row.bicubic)])
    heights = [strip[0].shape[0] for strip in strips]
    widest = max(strip[0].shape[1] for strip in strips)
    sheet = np.full((sum(heights) + GAP * (len(strips) + 1), 4 * widest + 5 * GAP, 3), 255, np.uint8)
    top = GAP
    for strip in strips:
        for k, picture in enumerate(strip):
            left = GAP + k * (widest + GAP)
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        top += strip[0].shape[0] + GAP
    Image.fromarray(sheet).save(path)
