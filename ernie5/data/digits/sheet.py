"""A sheet of examples of the digit world: what is read or seen beside what is answered or drawn."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from ernie5.data.digits.bank import MAX_SECONDS, SAMPLE_RATE
from ernie5.data.digits.world import SPLITS, read_about
from ernie5.data.sounds import read_sound

COLUMNS = 5
ENLARGED = 2  # pixels a pixel of a picture, so that sounds beside it have rows enough
WINDOW, HOP = 128, 80  # samples of a spectrum and between two
BAND = 2  # bins a row of a spectrogram: 32 rows, as many as an enlarged picture has
RANGE = 6.0  # of a spectrogram from black to white, in natural logarithms of magnitudes
ENGLISH = "en"  # the font that matplotlib brings has no Chinese or Japanese


def write_sheet(world: Path, path: Path) -> None:
    """Draws examples of each task of the world's training part, in English, one task a row, to the PNG `path`.

    Its description is the configuration of the world, as JSON.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = examples(world)
    figure, axes = pyplot.subplots(len(rows), COLUMNS, figsize=(COLUMNS * 2.6, len(rows) * 1.25), squeeze=False)
    for row, (task, samples) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(task, fontsize=9, rotation=0, ha="right", va="center")
        for cell in row:
            cell.set(xticks=[], yticks=[], frame_on=False)
        for cell, segments in zip(row, samples, strict=False):
            _show(cell, world, segments)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout(pad=0.6)
    config = (read_about(world) or {}).get("config")
    figure.savefig(path, dpi=90, metadata={"Software": None, "Description": json.dumps(config)})
    pyplot.close(figure)


def examples(world: Path) -> dict[str, list[list[dict]]]:
    """The first few English samples of each task with media or sounds, as their segments."""
    found = defaultdict(list)
    manifest, facts = world / f"{SPLITS[0]}.jsonl", world / "facts" / f"{SPLITS[0]}.jsonl"
    with manifest.open(encoding="utf-8") as lines, facts.open(encoding="utf-8") as truths:
        for line, truth in zip(lines, truths, strict=True):
            fact = json.loads(truth)
            shows = "layout" in fact or "sounds" in fact
            if fact["language"] == ENGLISH and shows and len(found[fact["task"]]) < COLUMNS:
                found[fact["task"]].append(json.loads(line)["segments"])
    return {task: found[task] for task in sorted(found) if found[task]}


def _show(cell, world: Path, segments: list[dict]) -> None:
    """Media and spectrograms of sounds side by side, given text above, text that is answered below."""
    media = [_read_medium(world / s["source"], s["type"]) for s in segments if s["type"] != "text"]
    cell.set_title(" ".join(s["text"] for s in segments if s["type"] == "text" and "loss" in s), fontsize=8)
    cell.set_xlabel(" ".join(s["text"] for s in segments if s["type"] == "text" and "loss" not in s), fontsize=9)
    if media:
        height = max(strip.shape[0] for strip in media)
        padded = [np.pad(m, ((0, height - m.shape[0]), (0, 3)), constant_values=255) for m in media]
        cell.imshow(np.concatenate(padded, axis=1)[:, :-3], cmap="gray", vmin=0, vmax=255)


def _read_medium(path: Path, kind: str) -> np.ndarray:
    """As greys, uint8 [height, width]."""
    if kind == "audio":
        return spectrogram(read_sound(str(path), SAMPLE_RATE, MAX_SECONDS))
    return _read_film(path).repeat(ENLARGED, 0).repeat(ENLARGED, 1)


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """Float [samples] -> uint8 [32, spectra], high tones above, the loudest white; at least one spectrum."""
    padded = np.pad(samples, (0, max(WINDOW - len(samples), 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * np.hanning(WINDOW)
    magnitudes = np.abs(np.fft.rfft(windows))[:, 1:].reshape(len(windows), -1, BAND).mean(2)
    levels = np.log(np.maximum(magnitudes, 1e-9))
    return (255 * np.clip((levels - levels.max()) / RANGE + 1, 0, 1)).astype(np.uint8).T[::-1]


def _read_film(path: Path) -> np.ndarray:
    """All frames of a file side by side, a white line between them: uint8 [height, width]."""
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(image)]
    return np.concatenate([np.pad(frame, ((0, 0), (0, 1)), constant_values=255) for frame in frames], axis=1)[:, :-1]
