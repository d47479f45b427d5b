"""What the kinds that are trained by a YAML file have in common."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ernie5.errors import UserError


def add_run_file(train: argparse.ArgumentParser, example: str) -> None:
    """The options -c and -o."""
    train.add_argument("-c", "--config", type=Path, required=True, metavar="YAML", help="such as configs/tokenizer/*")
    train.add_argument("-o", "--opt", action="append", default=[], metavar="KEY=VALUE", help=f"override: -o {example}")


def start_paddle(threads: int = 0) -> None:
    from ernie5.config.schema import OpsConfig
    from ernie5.ops import runtime

    runtime.start_paddle(threads)
    runtime.configure(OpsConfig())


def with_progress(read: Callable[..., list], files: Sequence[Any], *arguments: object) -> list:
    """`read(files, *arguments, progress)` with a bar over the files."""
    from tqdm import tqdm

    with tqdm(total=len(files), unit="file", desc="reading", leave=False) as bar:
        return read(files, *arguments, bar.update)


def check_sheet(args: argparse.Namespace) -> None:
    """UserError for a sheet that has no media or cannot be drawn, before anything takes long."""
    if (args.media is None) != (args.sheet is None):
        raise UserError("--media and --sheet go together: give both, or neither")
    sheet = args.sheet
    if sheet is not None and (sheet.suffix.lower() != ".png" or sheet.is_dir() or not sheet.parent.is_dir()):
        raise UserError(f"--sheet: {sheet} cannot be written: name a .png file in a folder that exists")
