"""Refined pixels beside bicubic ones: digits by the shipped configuration, and photographs in a short run.

    python benchmarks/refiner.py --output FILE.md [--runs DIR]

Trains both on one thread (about five minutes) and scores held-out media. The photographs are those that scikit-image
installs. With --runs, the runs are left there, and those that are already there are not trained again.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ernie5.ops.runtime import start_paddle

start_paddle(1)

import paddle  # noqa: E402

from ernie5.refiner.degrade import degrade  # noqa: E402
from ernie5.refiner.pixels import edges, fit_short_side, flicker, psnr, upsample  # noqa: E402
from ernie5.refiner.refiner import Refiner  # noqa: E402

ROOT = Path(__file__).parents[1]
TRAIN = ("astronaut", "camera", "chelsea", "motorcycle_left", "brick", "gravel", "grass", "clock_motion")
HELD_OUT = ("coffee", "coins")
SIDE, TILE = 128, 64  # pixels: shorter side of a photograph, side of a held-out tile
PHOTO_OPTIONS = ("train.steps=450", "train.crop=32", "train.batch_size=16", "train.eval_steps=0", "data.short_side=128")
STRENGTHS = (0.0, 0.3, 0.7)
SAMPLERS = {"Euler 1": (1, "euler"), "Euler 2": (2, "euler"), "Euler 8": (8, "euler"), "Heun 4": (4, "heun")}
Media = Sequence[np.ndarray]  # uint8 [frames, height, width, 3] each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="Markdown")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="where the runs are left")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        runs = arguments.runs or Path(scratch)
        runs.mkdir(parents=True, exist_ok=True)
        photos = write_photos(runs)
        options = [f"data.train=[{photos / 'train'}]", f"data.validation=[{photos / 'held_out'}]", *PHOTO_OPTIONS]
        lines = heading()
        lines += section("Digits, `configs/refiner/digits.yaml`", train("digits", runs, []), digits())
        lines += section(f"Photographs, {TILE} px tiles", train("photos", runs, options), tiles(photos / "held_out"))
    arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def heading() -> list[str]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return [
        "# The refiner beside bicubic interpolation",
        "",
        f"{datetime.date.today()}, `python benchmarks/refiner.py --output FILE.md`, one thread, Paddle "
        f"{paddle.__version__}, Python {platform.python_version()}, commit {commit.stdout.strip()}.",
        "",
        "From half the size; means over held-out media. PSNR in dB over all pixels; edges: mean gradient, 1 is the "
        "original's; flicker: error of the change from frame to frame, of 255. The network is told the strength.",
        "",
    ]


def write_photos(runs: Path) -> Path:
    """scikit-image's photographs as PNG files, the held-out ones apart."""
    import skimage

    for part, names in (("train", TRAIN), ("held_out", HELD_OUT)):
        folder = runs / "photo_files" / part
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            source = Path(skimage.__file__).parent / "data" / f"{name}.png"
            Image.open(source).convert("RGB").save(folder / source.name)
    return runs / "photo_files"


def train(name: str, runs: Path, options: list[str]) -> Path:
    """The folder of a run of the tool."""
    folder = runs / name
    if not (folder / "model").exists():
        command = [sys.executable, "tools/refiner.py", "train", "-c", f"configs/refiner/{name}.yaml"]
        for option in [*options, f"output_dir={folder.resolve()}", "train.threads=1"]:
            command += ["-o", option]
        subprocess.run(command, cwd=ROOT, check=True)
    return folder


def digits() -> Media:
    """Pictures and films of scans that training did not see."""
    sys.path.insert(0, str(ROOT / "tools"))
    from refiner import draw_digits

    return draw_digits("test")[:150]


def tiles(folder: Path) -> Media:
    """Squares of the photographs, side by side."""
    found = []
    for path in sorted(folder.iterdir()):
        photo = fit_short_side(np.asarray(Image.open(path))[None], SIDE)
        for top in range(0, photo.shape[1] - TILE + 1, TILE):
            for left in range(0, photo.shape[2] - TILE + 1, TILE):
                found.append(photo[:, top : top + TILE, left : left + TILE])
    return found


def section(title: str, run: Path, media: Media) -> list[str]:
    """A table over strengths and ways to sample."""
    refiner = Refiner.from_pretrained(run / "model")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [record for record in records if record["kind"] == "train"][-1]
    films = sum(len(medium) > 1 for medium in media)
    lines = [
        f"## {title}",
        "",
        f"{records[0]['parameters']:,} parameters, {last['step']} steps in {last['seconds']:.0f} s; "
        f"{len(media)} held-out media, {films} of them films.",
        "",
        "| strength | made by | PSNR | edges |" + (" flicker |" if films else ""),
        "|---|---|---:|---:|" + ("---:|" if films else ""),
    ]
    for strength in STRENGTHS:
        rng = np.random.default_rng(0)
        config = refiner.config
        lows = [degrade(medium, config.scale, strength, config.degradation, rng) for medium in media]
        made = {"bicubic": [upsample(low, config.scale) for low in lows]}
        for name, (steps, method) in SAMPLERS.items():
            made[name] = [refiner.refine(low, strength, steps, method) for low in lows]
        if films:
            made["Euler 8, frames apart"] = [frames_apart(refiner, low, strength) for low in lows]
        if strength != STRENGTHS[1]:
            wrong = STRENGTHS[-1] - strength
            made[f"Euler 1, told {wrong:g}"] = [refiner.refine(low, wrong, 1) for low in lows]
        lines += [row(strength, name, frames, media, films) for name, frames in made.items()]
    return [*lines, ""]


def frames_apart(refiner: Refiner, low: np.ndarray, strength: float) -> np.ndarray:
    """Each frame as a picture with noise of its own."""
    return np.concatenate([refiner.refine(low[i : i + 1], strength, 8, seed=i) for i in range(len(low))])


def row(strength: float, name: str, made: Media, media: Media, films: int) -> str:
    quality = np.mean([psnr(a, b) for a, b in zip(made, media, strict=True)])
    sharp = np.mean([edges(a) for a in made]) / np.mean([edges(b) for b in media])
    line = f"| {strength:g} | {name} | {quality:.2f} | {sharp:.2f} |"
    if films:
        changes = [flicker(a, b) for a, b in zip(made, media, strict=True) if len(b) > 1]
        line += f" {np.mean(changes):.2f} |"
    return line


if __name__ == "__main__":
    main()
