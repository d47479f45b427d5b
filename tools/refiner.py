"""Trains a refiner, which gives low-resolution pictures and films their detail, and applies one.

python tools/refiner.py train -c configs/refiner/digits.yaml
python tools/refiner.py train -c configs/refiner/photos.yaml -o data.train=[my_photos] -o train.output_dir=runs/mine
python tools/refiner.py apply runs/refiner_digits/model --input small.png --output large.png --strength 0.3
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ernie5.errors import UserError, exit_cleanly

if TYPE_CHECKING:  # imported where it is used, so that --help answers at once
    import numpy as np

    from ernie5.config.refiner import RefinerDataConfig, RefinerRunConfig

DIGITS = "digits"
DIGIT_SIDE, DIGIT_ENLARGED = 32, 2  # pixels; times the size of the digit world's pictures
DIGIT_FILM_FRAMES, DIGIT_FILM_EVERY = 6, 4  # one scan in so many is also a film
FILM_ENDINGS = {".mp4", ".webm", ".mkv", ".mov", ".avi", ".gif"}
PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def main() -> None:
    arguments = parse_arguments()
    logging.getLogger("ernie5").setLevel(logging.INFO)
    arguments.run(arguments)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="learn from originals and save in a new folder")
    train.set_defaults(run=run_train)
    train.add_argument("-c", "--config", required=True, metavar="FILE", help="run file, see configs/refiner/")
    train.add_argument("-o", "--opt", action="append", default=[], metavar="KEY=VALUE", help="override")
    apply = commands.add_parser("apply", help="refine one picture or film")
    apply.set_defaults(run=run_apply)
    apply.add_argument("model", metavar="MODEL_DIR", help="folder `model` of a run")
    apply.add_argument("--input", required=True, metavar="FILE", help="picture or film, low resolution")
    apply.add_argument("--output", required=True, type=Path, metavar="FILE", help="new .png, .webp, .gif or .mp4")
    apply.add_argument("--strength", type=float, default=0.3, help="how degraded it is, 0 to 1 (default %(default)s)")
    apply.add_argument("--steps", type=int, default=8, help="1: the mean of what is likely (default %(default)s)")
    apply.add_argument("--method", choices=("euler", "heun"), default="euler", help="default %(default)s")
    apply.add_argument("--fps", type=float, default=8.0, help="of a film (default %(default)s)")
    apply.add_argument("--max-frames", type=int, default=256, metavar="N", help="of a film (default %(default)s)")
    apply.add_argument("--seed", type=int, default=0)
    apply.add_argument("--threads", type=int, default=0, metavar="N", help="of the CPU (default: as many as cores)")
    return parser.parse_args()


def run_train(arguments: argparse.Namespace) -> None:
    from ernie5.config.load import load_as
    from ernie5.config.refiner import RefinerRunConfig, check_run

    config = load_as(RefinerRunConfig, arguments.config, arguments.opt)
    check_run(config, arguments.config)
    originals, held_out = read_originals(config)
    start(config.train.threads)
    from ernie5.refiner.training import train

    train(config, originals, held_out)


def run_apply(arguments: argparse.Namespace) -> None:
    if arguments.output.exists():
        raise UserError(f"{arguments.output}: exists already: name a new file")
    frames = read_medium(arguments.input, arguments.fps, arguments.max_frames)
    start(arguments.threads)
    from ernie5.inference.media_files import save_media
    from ernie5.refiner.refiner import Refiner

    refiner = Refiner.from_pretrained(arguments.model)
    refined = refiner.refine(frames, arguments.strength, arguments.steps, arguments.method, arguments.seed)
    save_media(arguments.output, refined, arguments.fps)
    print(f"{arguments.output}: {len(refined)} x {refined.shape[1]} x {refined.shape[2]}")


def start(threads: int) -> None:
    """Imports Paddle, set up for speed."""
    from ernie5.config.schema import OpsConfig
    from ernie5.ops import runtime

    runtime.start_paddle(threads)
    runtime.configure(OpsConfig())


def read_originals(config: "RefinerRunConfig") -> tuple[list["np.ndarray"], list["np.ndarray"]]:
    """Media to learn from and held-out ones, uint8 [frames, height, width, 3]."""
    data, smallest = config.data, config.train.crop
    if data.validation:
        train, held_out = media_of(data.train, "train"), media_of(data.validation, "validation")
    else:
        media = media_of(data.train, "train")
        every = max(2, round(1 / data.validation_fraction))
        train = [medium for i, medium in enumerate(media) if i % every]
        held_out = media[::every]
    train = spread(train, data.max_media)
    held_out = spread(held_out, data.max_validation_media)
    return list(load(train, data, smallest)), list(load(held_out, data, smallest))


def media_of(sources: tuple[str, ...], split: str) -> list["str | np.ndarray"]:
    """Paths of files, or pixels where they are drawn here, in a fixed order and each once."""
    media: list[str | np.ndarray] = []
    for source in sources:
        if source == DIGITS:
            media += draw_digits(split)
        elif source.endswith(".jsonl"):
            media += manifest_media(source)
        else:
            media += files_of(Path(source))
    seen: set[str] = set()
    return [m for m in media if not isinstance(m, str) or not (m in seen or seen.add(m))]


def files_of(path: Path) -> list[str]:
    """The pictures and films below a folder by their endings, or the file itself."""
    if path.is_file():
        return [str(path)]
    files = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in PICTURE_ENDINGS | FILM_ENDINGS)
    if not files:
        raise UserError(f"data.train or data.validation: {path} holds no picture and no film: correct the path")
    return files


def manifest_media(path: str) -> Iterator[str]:
    """The files of a manifest's media segments."""
    from ernie5.config.schema import SourceConfig
    from ernie5.data.sample import Image, Video
    from ernie5.data.sources import open_source

    corpus = open_source(SourceConfig(name=path, path=path))
    for i in range(len(corpus)):
        for segment in corpus[i].all_segments():
            if isinstance(segment, Image | Video):
                yield segment.source


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


def spread(media: list, most: int) -> list:
    """At most so many, evenly chosen; 0: all."""
    return media if not most or len(media) <= most else [media[i * len(media) // most] for i in range(most)]


def load(media: list["str | np.ndarray"], data: "RefinerDataConfig", smallest: int) -> Iterator["np.ndarray"]:
    """Their pixels; what is smaller than the cuts of training, once brought to its size, is left out with a warning."""
    from tqdm import tqdm

    from ernie5.refiner.pixels import fit_short_side

    small = 0
    for medium in tqdm(media, desc="reading", unit=" media", leave=False):
        frames = read_medium(medium, data.fps, data.max_frames) if isinstance(medium, str) else medium
        if data.short_side and min(frames.shape[1:3]) > data.short_side:
            frames = fit_short_side(frames, data.short_side)
        if min(frames.shape[1:3]) < smallest:
            small += 1
        else:
            yield frames
    if small:
        logging.warning("%d of %d media are smaller than train.crop, %d, and are left out", small, len(media), smallest)


def read_medium(path: str, fps: float, max_frames: int) -> "np.ndarray":
    """A film by its ending, else a picture."""
    from ernie5.data.media import read_image, read_video

    return read_video(path, fps, max_frames) if Path(path).suffix.lower() in FILM_ENDINGS else read_image(path)


if __name__ == "__main__":
    exit_cleanly(main)
