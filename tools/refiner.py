"""Trains a refiner, which gives low-resolution pictures and films their detail, and applies one.

python tools/refiner.py train -c configs/refiner/digits.yaml
python tools/refiner.py train -c configs/refiner/photos.yaml -o data.train=[my_photos] -o output_dir=runs/mine
python tools/refiner.py apply runs/refiner_digits/model --input small.png --output large.png --strength 0.3
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ernie5.errors import UserError, exit_cleanly

if TYPE_CHECKING:  # imported where it is used, so that --help answers at once
    import numpy as np

    from ernie5.config.refiner import RefinerDataConfig, RefinerRunConfig
    from ernie5.data.media_set import MediaFile

DIGITS = "digits"
DIGIT_SIDE, DIGIT_ENLARGED = 32, 2  # pixels; times the size of the digit world's pictures
DIGIT_FILM_FRAMES, DIGIT_FILM_EVERY = 6, 4  # one scan in so many is also a film


def main() -> None:
    arguments = parse_arguments()
    logging.getLogger("ernie5").setLevel(logging.INFO)
    arguments.run(arguments)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_train(commands)
    add_apply(commands)
    return parser.parse_args()


def add_train(commands: argparse._SubParsersAction) -> None:
    train = commands.add_parser(
        "train",
        help="learn from originals and save in a new folder",
        description="Example: python tools/refiner.py train -c configs/refiner/photos.yaml -o data.train=[my_photos] "
        "-o output_dir=runs/mine",
    )
    train.set_defaults(run=run_train)
    train.add_argument("-c", "--config", required=True, metavar="FILE", help="run file, see configs/refiner/")
    train.add_argument(
        "-o", "--opt", action="append", default=[], metavar="KEY=VALUE", help="override: -o train.steps=100"
    )


def add_apply(commands: argparse._SubParsersAction) -> None:
    apply = commands.add_parser(
        "apply",
        help="refine one picture or film",
        description="Example: python tools/refiner.py apply runs/refiner_digits/model --input small.png "
        "--output large.png",
    )
    apply.set_defaults(run=run_apply)
    apply.add_argument("model", metavar="MODEL_DIR", help="folder `model` of a run")
    apply.add_argument("--input", required=True, metavar="FILE", help="picture or film, low resolution")
    apply.add_argument("--output", required=True, type=Path, metavar="FILE", help="new .png, .webp, .gif or .mp4")
    apply.add_argument("--strength", type=float, default=0.3, help="how degraded it is, 0 to 1 (default %(default)s)")
    apply.add_argument("--steps", type=int, default=8, help="1: the mean of what is likely (default %(default)s)")
    apply.add_argument("--method", choices=("euler", "heun"), default="euler", help="default %(default)s")
    apply.add_argument("--fps", type=float, default=8.0, help="of a film (default %(default)s)")
    apply.add_argument("--max-frames", type=int, default=256, metavar="N", help="of a film (default %(default)s)")
    apply.add_argument("--seed", type=int, default=0, help="of the noise (default %(default)s)")
    apply.add_argument("--threads", type=int, default=0, metavar="N", help="of the CPU (default: as many as cores)")


def run_train(arguments: argparse.Namespace) -> None:
    from ernie5.config.load import load_as
    from ernie5.config.refiner import RefinerRunConfig, check_run

    config = load_as(RefinerRunConfig, arguments.config, arguments.opt)
    check_run(config, arguments.config)
    files, held_out = find_originals(config)
    start(config.train.threads)
    from ernie5.refiner.training import new_folder, train

    new_folder(config)  # before reading, which may take long
    train(config, load(files, config.data, config.train.crop), load(held_out, config.data, config.train.crop))


def run_apply(arguments: argparse.Namespace) -> None:
    check_apply(arguments)
    frames = read_medium(find_medium(arguments.input, arguments.fps), arguments.max_frames)
    from ernie5.inference.media_files import check_name, save_media

    check_name(arguments.output, len(frames), arguments.fps)
    start(arguments.threads)
    from ernie5.refiner.refiner import Refiner

    refiner = Refiner.from_pretrained(arguments.model)
    refined = refiner.refine(frames, arguments.strength, arguments.steps, arguments.method, arguments.seed)
    save_media(arguments.output, refined, arguments.fps)
    print(f"{arguments.output}: {len(refined)} x {refined.shape[1]} x {refined.shape[2]}")


def check_apply(arguments: argparse.Namespace) -> None:
    """UserError for options out of range, before anything takes long."""
    if arguments.output.exists():
        raise UserError(f"{arguments.output}: exists already: name a new file")
    if not arguments.output.parent.is_dir():
        raise UserError(f"{arguments.output}: there is no folder {arguments.output.parent}: make it first")
    for name, least in (("max_frames", 1), ("steps", 1), ("seed", 0), ("threads", 0)):
        value = getattr(arguments, name)
        if value < least:
            raise UserError(f"--{name.replace('_', '-')} is {value}: must be at least {least}")
    if not arguments.fps > 0:
        raise UserError(f"--fps is {arguments.fps}: must be above 0")


def start(threads: int) -> None:
    """Imports Paddle, set up for speed."""
    from ernie5.config.schema import OpsConfig
    from ernie5.ops import runtime

    runtime.start_paddle(threads)
    runtime.configure(OpsConfig())


def find_originals(
    config: "RefinerRunConfig",
) -> tuple[list["MediaFile | np.ndarray"], list["MediaFile | np.ndarray"]]:
    """Media to learn from and held-out ones: files, or pixels where they are drawn here.

    Without `data.validation` a random share of the files is held out, and of the digits their own validation scans.
    """
    from ernie5.data.media_set import choose_evenly, find_media, split_off

    data = config.data
    files, held_out = (
        find_media([path for path in paths if path != DIGITS], data.fps) for paths in (data.train, data.validation)
    )
    if files and not data.validation:
        files, held_out = split_off(files, data.validation_fraction, config.train.seed)
    train = [*(draw_digits("train") if DIGITS in data.train else []), *files]
    digits_held_out = DIGITS in (data.validation or data.train)
    held_out = [*(draw_digits("validation") if digits_held_out else []), *held_out]
    return choose_evenly(train, data.max_media), choose_evenly(held_out, data.max_validation_media)


def draw_digits(split: str) -> list["np.ndarray"]:
    """scikit-learn's scans of a split, drawn at twice the digit world's size; some of them also as moving digits."""
    from dataclasses import replace

    import numpy as np

    from ernie5.data.digits.render import draw_glyphs, film_glyph, picture_glyph
    from ernie5.data.digits.scans import load_scans, split_scans

    scans, centre, rng = load_scans(), DIGIT_SIDE / 2, np.random.default_rng(0)
    media, starts = [], []
    for number, scan in enumerate(split_scans(scans)[split].tolist()):
        glyph = picture_glyph(scan, centre, centre, rng)
        media.append([replace(glyph, scale=glyph.scale * DIGIT_ENLARGED)])
        if number % DIGIT_FILM_EVERY == 0:
            step = rng.uniform(-1.5, 1.5, 2)  # pixels a frame, so that the digit stays in the picture
            starts = np.arange(DIGIT_FILM_FRAMES) - (DIGIT_FILM_FRAMES - 1) / 2
            glyph = film_glyph(scan, centre, centre, rng)
            glyph = replace(glyph, scale=glyph.scale * DIGIT_ENLARGED)
            media.append([glyph.moved(*(step * at)) for at in starts])
    grey = draw_glyphs(scans.pixels, [glyph for frames in media for glyph in frames], DIGIT_SIDE, DIGIT_SIDE)
    ends = np.cumsum([len(frames) for frames in media])
    return [np.stack([frames] * 3, -1) for frames in np.split(grey, ends[:-1])]


def load(media: Sequence["MediaFile | np.ndarray"], data: "RefinerDataConfig", smallest: int) -> list["np.ndarray"]:
    """Their pixels; what is smaller than the cuts of training, once brought to its size, is left out with a warning.

    Raises UserError as soon as they take more than `data.max_bytes`.
    """
    import numpy as np
    from tqdm import tqdm

    from ernie5.refiner.pixels import fit_short_side

    found, small, size = [], 0, 0
    for medium in tqdm(media, desc="reading", unit=" media", leave=False):
        frames = medium if isinstance(medium, np.ndarray) else read_medium(medium, data.max_frames)
        if data.short_side and min(frames.shape[1:3]) > data.short_side:
            frames = fit_short_side(frames, data.short_side)
        if min(frames.shape[1:3]) < smallest:
            small += 1
            continue
        found.append(frames)
        size += frames.nbytes
        if size > data.max_bytes:
            raise UserError(
                f"{len(found)} of {len(media)} media take more than data.max_bytes, {data.max_bytes}: lower "
                "data.max_media, data.max_frames or data.short_side, or raise it"
            )
    if small:
        logging.warning("%d of %d media are smaller than train.crop, %d, and are left out", small, len(media), smallest)
    return found


def find_medium(path: str, fps: float) -> "MediaFile":
    """A film by its ending, else a picture."""
    from ernie5.data.media_set import FILM_ENDINGS, MediaFile

    return MediaFile(path, fps if Path(path).suffix.lower() in FILM_ENDINGS else None)


def read_medium(file: "MediaFile", max_frames: int) -> "np.ndarray":
    """uint8 [frames, height, width, 3]."""
    from ernie5.data.media import read_image, read_video

    return read_image(file.path) if file.fps is None else read_video(file.path, file.fps, max_frames)


if __name__ == "__main__":
    exit_cleanly(main)
