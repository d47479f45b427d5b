"""The vision tokenizer at three bit widths: PSNR with each scale more, and the use of bits, on media it never saw.

    pip install -e ".[data,benchmarks]"
    python benchmarks/vision_tokenizer.py --digits data/digits [--steps 400] [--output FILE.md]

Digits are held-out media of the digit world (tools/make_digits.py). Photographs are crops of scikit-image's, brought to
64 pixels; the photographs that are measured are not among those that are learned, which are few: their colours are
changed at random. All widths of a table see the same
batches for the same number of steps. A last table times the causal convolution beside Paddle's own.
"""

import argparse
import datetime
import logging
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ernie5.config.load import load_as
from ernie5.config.schema import OpsConfig, ResolutionConfig, VisionEncoderConfig
from ernie5.config.vision_tokenizer import (
    VisionTokenizerConfig,
    VisionTokenizerDataConfig,
    VisionTokenizerRunConfig,
    VisionTokenizerTrainConfig,
)
from ernie5.ops import runtime

BITS = (4, 8, 16)
CONFIG = Path(__file__).parents[1] / "configs/tokenizer/digits.yaml"
MAX_DIGITS, MAX_HELD_OUT = 6000, 128  # media
SIDE = 64  # pixels of a crop
LEARNED = (
    "astronaut",
    "camera",
    "coins",
    "brick",
    "grass",
    "gravel",
    "moon",
    "immunohistochemistry",
    "hubble_deep_field",
    "stereo_motorcycle",
)
HELD_OUT = ("chelsea", "coffee", "rocket")
CROPS, HELD_OUT_CROPS = 200, 24  # of a photograph
PHOTO_TABLE = (ResolutionConfig(height=SIDE, width=SIDE, scales=((1, 1), (2, 2), (4, 4), (8, 8), (16, 16))),)
Media = list[np.ndarray]  # uint8 [frames, height, width, 3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=Path, required=True, help="folder of the digit world")
    parser.add_argument("--steps", type=int, default=400, help="on digits")
    parser.add_argument("--photo-steps", type=int, default=600, help="on photographs")
    parser.add_argument("--output", type=Path, help="Markdown file; default: standard output")
    args = parser.parse_args()
    runtime.start_paddle()
    runtime.configure(OpsConfig())
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start, commit = time.process_time(), current_commit()  # now: what runs is what stands here at the start
    sections = [
        section("Digits", digit_runs(args.steps), *digits(args.digits)),
        section("Photographs", photo_runs(args.photo_steps), *photographs()),
        convolutions(),
    ]
    page = "\n\n".join([header(commit, time.process_time() - start), *sections]) + "\n"
    if args.output:
        args.output.write_text(page, encoding="utf-8")
    else:
        print(page)


def digits(folder: Path) -> tuple[Media, Media]:
    """Training and held-out media of the digit world."""
    from ernie5.data.media_set import choose_evenly, find_media, read_media

    table = load_as(VisionTokenizerRunConfig, CONFIG).tokenizer.resolutions
    splits = (("train", MAX_DIGITS), ("test", MAX_HELD_OUT))
    files = [choose_evenly(find_media([str(folder / f"{split}.jsonl")], fps=4.0), number) for split, number in splits]
    learned, held_out = (read_media(media, table, max_frames=64) for media in files)
    return learned, held_out


def photographs() -> tuple[Media, Media]:
    """Crops of the photographs that are learned, and of the others."""
    rng = np.random.default_rng(0)
    learned = [recolour(crop(photograph(name), rng), rng) for name in LEARNED for _ in range(CROPS)]
    return learned, [crop(photograph(name), rng) for name in HELD_OUT for _ in range(HELD_OUT_CROPS)]


def photograph(name: str) -> Image.Image:
    import skimage.data

    found = getattr(skimage.data, name)()
    return Image.fromarray(found[0] if isinstance(found, tuple) else found).convert("RGB")  # a pair of eyes: the left


def recolour(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Channels in another order, each with another contrast and brightness; turned and mirrored."""
    channels = picture[..., rng.permutation(3)].astype(np.float32)
    changed = (channels - 128) * rng.uniform(0.6, 1.2, 3) + 128 + rng.uniform(-30, 30, 3)
    turned = np.rot90(changed, rng.integers(4), (1, 2))
    return turned[:, :, :: rng.choice([-1, 1])].clip(0, 255).astype(np.uint8)


def crop(picture: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """A random square of one to four times the side, brought to the side; uint8 [1, side, side, 3]."""
    square = int(rng.integers(SIDE, min(4 * SIDE, *picture.size) + 1))
    left, top = (int(rng.integers(size - square + 1)) for size in picture.size)
    box = (left, top, left + square, top + square)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))[None]


def digit_runs(steps: int) -> list[VisionTokenizerRunConfig]:
    overrides = [f"train.image_steps={steps}", "train.video_steps=0", "train.eval_steps=0"]
    return [load_as(VisionTokenizerRunConfig, CONFIG, [*overrides, f"tokenizer.bits={bits}"]) for bits in BITS]


def photo_runs(steps: int) -> list[VisionTokenizerRunConfig]:
    return [
        VisionTokenizerRunConfig(
            tokenizer=VisionTokenizerConfig(
                encoder=VisionEncoderConfig(channels=(16, 32, 64)), bits=bits, resolutions=PHOTO_TABLE
            ),
            train=VisionTokenizerTrainConfig(image_steps=steps, batch_size=8, eval_steps=0, learning_rate=2e-3),
            data=VisionTokenizerDataConfig(train=("scikit-image",)),
            output_dir="",
        )
        for bits in BITS
    ]


def section(title: str, runs: list[VisionTokenizerRunConfig], learned: Media, held_out: Media) -> str:
    """One table: a line for each width."""
    from dataclasses import replace

    from ernie5.tokenizers.vision.train import train_vision_tokenizer

    encoder, train = runs[0].tokenizer.encoder, runs[0].train
    lines = [
        f"## {title}",
        "",
        f"{len(learned)} media learned for {train.image_steps} steps of {train.batch_size} pictures, {len(held_out)} "
        f"others measured. Channels {list(encoder.channels)}, stride {encoder.stride}.",
        "",
    ]
    for i, run in enumerate(runs):
        with tempfile.TemporaryDirectory() as folder:
            _, quality = train_vision_tokenizer(replace(run, output_dir=folder), learned, held_out)
        if i == 0:
            left_out = range(len(quality.psnr) - 1, -1, -1)
            names = [f"dB, {f'without the last {k}' if k else 'all scales'}" for k in left_out]
            names += [f"entropy of the last but {k}" if k else "entropy of the last" for k in left_out]
            lines += [f"| bits | {' | '.join(names)} |", f"|---:{'|---:' * len(names)}|"]
        psnr = [f"{value:.2f}" for value in quality.psnr]
        entropy = [f"{value:.3f}" for value in quality.entropy]
        lines.append(f"| {run.tokenizer.bits} | {' | '.join([*psnr, *entropy])} |")
    return "\n".join(lines)


def convolutions() -> str:
    """The causal convolution beside conv3d, forward and backward."""
    import paddle
    import paddle.nn.functional as F

    from ernie5.tokenizers.vision.causal_conv import CausalConv
    from ernie5.tokenizers.vision.encoder import to_frames

    lines = [
        "## Causal convolution over 3 frames, forward and backward",
        "",
        "Milliseconds, the least of ten. `conv3d` gets zeros before the film; `conv2d` sees one frame at a time.",
        "",
        "| films x frames, channels, side | ours | conv3d | conv2d |",
        "|---|---:|---:|---:|",
    ]
    for films, frames, channels, side in ((16, 4, 32, 16), (8, 8, 32, 16), (16, 4, 48, 8), (16, 4, 64, 4)):
        layer = CausalConv(channels, channels)
        film = paddle.randn([films, frames, side, side, channels])
        rows, stacked = to_frames(film), film.transpose([0, 4, 1, 2, 3])
        rows.stop_gradient = stacked.stop_gradient = False

        def ours(layer=layer, rows=rows, films=films) -> paddle.Tensor:
            return layer(rows, films)

        def conv3d(layer=layer, stacked=stacked) -> paddle.Tensor:
            padded = F.pad(stacked, [0, 0, 0, 0, 2, 0], data_format="NCDHW")
            return F.conv3d(padded, layer.weight, layer.bias, padding=[0, 1, 1])

        def conv2d(layer=layer, rows=rows) -> paddle.Tensor:
            return F.conv2d(rows, layer.weight[:, :, -1], layer.bias, padding=1)

        times = " | ".join(f"{1000 * least_seconds(form):.1f}" for form in (ours, conv3d, conv2d))
        lines.append(f"| {films} x {frames}, {channels}, {side} x {side} | {times} |")
    return "\n".join(lines)


def least_seconds(form: "Callable[[], object]", repetitions: int = 10) -> float:
    """Of a forward and a backward pass."""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        form().square().mean().backward()
        times.append(time.perf_counter() - start)
    return min(times)


def current_commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


def header(commit: str, cpu_seconds: float) -> str:
    import paddle
    import skimage

    command = shlex.join(["python", "benchmarks/vision_tokenizer.py", *sys.argv[1:]])
    threads = os.environ["OMP_NUM_THREADS"]
    return "\n".join(
        [
            "# The vision tokenizer on media that it never saw",
            "",
            f"{datetime.date.today()}, `{command}`, {cpu_seconds:.0f} CPU seconds with {threads} thread(s), "
            f"PaddlePaddle {paddle.__version__}, scikit-image {skimage.__version__}, commit {commit}.",
            "",
            "PSNR in dB of the sum of all scales and without the last ones, the mean over held-out frames, those of "
            "films included; the entropy of a bit's frequency at each scale, the mean over bits (1: used evenly). "
            "Training is short: the numbers compare widths, they are not the best that can be had.",
        ]
    )


if __name__ == "__main__":
    main()
