"""The digit world as a folder: manifests, media, what is true of each sample, and where it comes from."""

import hashlib
import json
import logging
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ernie5.data.digits.bank import (
    Sound,
    SpeechConfig,
    check_speech,
    describe_bank,
    make_bank,
    num_sounds,
)
from ernie5.data.digits.render import draw_glyphs
from ernie5.data.digits.scans import load_scans, scans_digest, split_scans
from ernie5.data.digits.tasks import TASKS, Medium, Sample, make_samples
from ernie5.data.digits.voices import Speech
from ernie5.data.sample import Audio
from ernie5.errors import UserError

logger = logging.getLogger(__name__)

MAKER = "ernie5 digit world 1"  # in world.json: the folder is ours to replace
FPS = 4  # frames a second of the films
SPLITS = ("train", "validation", "test")
CHUNK = 256  # samples drawn and written at a time


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """What to make."""

    seed: int = 0
    num_train: int = 22_800  # samples, shared out over the tasks by their weights: 15 of each of the 1,520
    num_validation: int = 608
    num_test: int = 3_040
    film_frames: int = 5
    weights: tuple[tuple[str, int], ...] = tuple((name, task.weight) for name, task in TASKS.items())
    speech: SpeechConfig = field(default_factory=SpeechConfig)

    @property
    def is_spoken(self) -> bool:
        """Whether there are sounds at all."""
        return any(weight and TASKS[name].is_spoken for name, weight in self.weights)

    def num_samples(self, split: str) -> int:
        return {"train": self.num_train, "validation": self.num_validation, "test": self.num_test}[split]


def make_world(folder: Path, config: WorldConfig, progress: Callable[[int], object] = lambda n: None) -> dict:
    """Writes the world, aside first so that `folder` is whole or untouched; returns what world.json says.

    `progress` is told how many sounds and samples were written. Raises UserError if `folder` holds something else.
    """
    check_config(config)
    check_replaceable(folder)
    scans = load_scans()
    ids = split_scans(scans)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    folder.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    counts = {}
    try:
        sounds = make_bank(aside, config.speech, config.seed, progress) if config.is_spoken else []
        for number, split in enumerate(SPLITS):
            samples = _draw_samples(config, number, ids[split], scans.digits, sounds)
            counts[split] = dict(Counter(sample.facts.task for sample in samples))
            _write_split(aside, split, samples, scans.pixels, digest, progress)
        about = {
            "maker": MAKER,
            "config": {**asdict(config), "weights": dict(config.weights)},
            "fps": FPS,
            "samples": counts,
            "scans": {name: chosen.tolist() for name, chosen in ids.items()},
            "scans_digest": scans_digest(scans),
            "speech": describe_bank(aside, sounds, config.speech) if config.is_spoken else None,
            "digest": digest.hexdigest(),
        }
        (aside / "world.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        _replace(folder, aside)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return about


def num_steps(config: WorldConfig) -> int:
    """How many sounds and samples are made, for a bar."""
    samples = sum(config.num_samples(split) for split in SPLITS)
    return samples + (num_sounds(config.speech) if config.is_spoken else 0)


def check_config(config: WorldConfig) -> None:
    """Raises UserError for a world that cannot be made."""
    for name in ("num_train", "num_validation", "num_test"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} is {getattr(config, name)}: give at least 1")
    if config.film_frames < 2:
        raise UserError(f"film_frames is {config.film_frames}: nothing moves in fewer than 2 frames")
    unknown = [name for name, _ in config.weights if name not in TASKS]
    if unknown:
        raise UserError(f'unknown task "{unknown[0]}": known are {", ".join(TASKS)}')
    if sum(weight for _, weight in config.weights) <= 0 or any(weight < 0 for _, weight in config.weights):
        raise UserError(f"the weights of the tasks are {dict(config.weights)}: none below 0, and one above it")
    if config.is_spoken:
        check_speech(config.speech)


def check_replaceable(folder: Path) -> None:
    """Raises UserError if `folder` exists and is not a digit world, or an empty folder."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if read_about(folder) is None:
        raise UserError(f"{folder} exists and is no digit world: give another --output, or remove it yourself")


def read_about(folder: Path) -> dict | None:
    """What world.json in the folder says, or None if it is no digit world."""
    try:
        about = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) and about.get("maker") == MAKER else None


def share_out(total: int, weights: tuple[tuple[str, int], ...]) -> dict[str, int]:
    """`total` in parts by weight; the parts sum up to it (largest remainders)."""
    sum_weights = sum(weight for _, weight in weights)
    exact = {name: total * weight / sum_weights for name, weight in weights}
    parts = {name: int(value) for name, value in exact.items()}
    missing = total - sum(parts.values())
    for name in sorted(exact, key=lambda name: parts[name] - exact[name])[:missing]:
        parts[name] += 1
    return parts


def _draw_samples(
    config: WorldConfig, split: int, ids: np.ndarray, digits: np.ndarray, sounds: list[Sound]
) -> list[Sample]:
    """The samples of a split in mixed order. Held-out scans are shown as they are; only training varies them."""
    heard = [sound for sound in sounds if sound.split == SPLITS[split]]
    speech = Speech(heard, config.speech.languages, config.speech.recorded_share) if heard else None
    samples = []
    for task, count in share_out(config.num_samples(SPLITS[split]), config.weights).items():
        rng = np.random.default_rng((config.seed, split, list(TASKS).index(task)))
        vary = SPLITS[split] == "train"
        kind = {"vary": vary, "num_frames": config.film_frames, "speech": speech}
        samples += make_samples(task, count, digits, ids, rng, **kind)
    order = np.random.default_rng((config.seed, split)).permutation(len(samples))
    return [samples[i] for i in order]


def render_media(media: list[Medium], pixels: np.ndarray) -> list[np.ndarray]:
    """Each medium drawn: uint8 [frames, height, width] in greys. `pixels` uint8 [scans, 8, 8]."""
    drawn = [np.zeros((len(medium.frames), medium.height, medium.width), np.uint8) for medium in media]
    by_size = defaultdict(list)  # glyphs of one canvas size are drawn together
    for i, medium in enumerate(media):
        for k, glyphs in enumerate(medium.frames):
            by_size[medium.height, medium.width] += [(i, k, glyph) for glyph in glyphs]
    for (height, width), placed in by_size.items():
        canvases = draw_glyphs(pixels, [glyph for _, _, glyph in placed], height, width)
        for (i, k, _), canvas in zip(placed, canvases, strict=True):
            np.maximum(drawn[i][k], canvas, out=drawn[i][k])
    return drawn


def _write_split(folder: Path, split: str, samples: list[Sample], pixels: np.ndarray, digest, progress) -> None:
    (folder / "media" / split).mkdir(parents=True)
    (folder / "facts").mkdir(exist_ok=True)
    manifest, facts = folder / f"{split}.jsonl", folder / "facts" / f"{split}.jsonl"
    names = (f"media/{split}/{number:05d}" for number in range(10**9))
    with manifest.open("w", encoding="utf-8") as lines, facts.open("w", encoding="utf-8") as truths:
        for start in range(0, len(samples), CHUNK):
            chunk = samples[start : start + CHUNK]
            media = [part for sample in chunk for part in (*sample.parts, sample.answer) if isinstance(part, Medium)]
            drawn = iter(render_media(media, pixels))
            for sample in chunk:
                segments = list(_write_segments(folder, sample, drawn, names, digest))
                line = json.dumps({"segments": segments}, ensure_ascii=False)
                truth = json.dumps(sample.facts.as_record(), ensure_ascii=False)
                digest.update(f"{line}\n{truth}\n".encode())
                lines.write(line + "\n")
                truths.write(truth + "\n")
            progress(len(chunk))


def _write_segments(folder: Path, sample: Sample, drawn, names, digest) -> Iterator[dict]:
    """The sample's segments as the manifest has them; their media are written on the way."""
    for place, part in enumerate((*sample.parts, sample.answer)):
        if isinstance(part, str):
            segment = {"type": "text", "text": part}
            yield {**segment, "loss": False} if place < len(sample.parts) else segment
            continue
        if isinstance(part, Audio):
            yield {"type": "audio", "source": part.source, "role": part.role}
            continue
        pixels = next(drawn)
        digest.update(pixels.tobytes())
        is_film = len(part.frames) > 1
        source = next(names) + (".gif" if is_film else ".png")
        write_medium(folder / source, pixels)
        segment = {"type": "video" if is_film else "image", "source": source, "role": part.role}
        yield {**segment, "fps": FPS} if is_film else segment


def write_medium(path: Path, frames: np.ndarray) -> None:
    """uint8 [frames, height, width] in greys as PNG, or as GIF, whose palette holds all 256 greys: both lossless."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    if path.suffix == ".png":
        first.save(path)
    else:
        first.save(path, save_all=True, append_images=others, duration=1000 // FPS, loop=0, optimize=False)


def _replace(folder: Path, made: Path) -> None:
    """Puts `made` in the place of `folder`; an older world is removed when the new one stands."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    made.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
