"""Trains and inspects tokenizers.

python tools/tokenizer.py train text --input pydoc --vocab-size 4096 --output runs/tokenizer
python tools/tokenizer.py train vision -c configs/tokenizer/digits.yaml
python tools/tokenizer.py train audio -c configs/tokenizer/digits_audio.yaml
python tools/tokenizer.py train speaker -c configs/tokenizer/digits_speaker.yaml
python tools/tokenizer.py inspect runs/tokenizer --text "Hello, world"
python tools/tokenizer.py inspect runs/vision_tokenizer --media data/digits/validation.jsonl --sheet sheet.png
python tools/tokenizer.py inspect runs/audio_tokenizer --media data/digits/sounds.jsonl --split test --sheet sheet.png
"""

import argparse
from pathlib import Path

from tokenizer_kinds import audio, speaker, text, vision

from ernie5.errors import UserError, exit_cleanly

MAX_FRAMES = 64  # of an inspected film


def main() -> None:
    args = parse_args()
    args.run(args)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    kinds = commands.add_parser("train", help="learn a tokenizer and save it in a folder").add_subparsers(
        required=True, metavar="KIND"
    )
    for kind in (text, vision, audio, speaker):
        kind.add_train(kinds)
    inspect = commands.add_parser(
        "inspect", help="show a saved tokenizer, and what it does to a text, to media or to sounds"
    )
    inspect.set_defaults(run=inspect_folder)
    inspect.add_argument("folder", type=Path, metavar="DIR")
    shown = inspect.add_mutually_exclusive_group()
    shown.add_argument("--text", metavar="TEXT", help="a text to cut")
    shown.add_argument("--file", type=Path, metavar="FILE", help="a UTF-8 file to cut")
    shown.add_argument(
        "--media", nargs="+", metavar="PATH", help="vision, audio: files, folders or manifests to reconstruct"
    )
    inspect.add_argument(
        "--sheet", type=Path, metavar="PNG", help="vision, audio: where to draw media beside reconstructions"
    )
    inspect.add_argument("--fps", type=float, default=4.0, metavar="F", help="vision: frames a second of films (4)")
    inspect.add_argument(
        "--max-frames", type=int, default=MAX_FRAMES, metavar="N", help=f"vision: of a film at most ({MAX_FRAMES})"
    )
    inspect.add_argument("--split", default="", metavar="NAME", help="audio: only these lines of an index (all)")
    inspect.add_argument(
        "--recogniser", type=Path, metavar="DIR", help="audio: whose errors on reconstructions to count, too"
    )
    return parser.parse_args()


def inspect_folder(args: argparse.Namespace) -> None:
    kind, name = kind_of(args.folder)
    if kind is text:
        if args.media is not None or args.sheet is not None:
            raise UserError(f"{args.folder} is a text tokenizer: give --text or --file, not media")
    elif args.text is not None or args.file is not None:
        raise UserError(f"{args.folder} is {name} tokenizer: give --media, not a text")
    kind.inspect_folder(args)


def kind_of(folder: Path) -> tuple:
    """The module of the folder's kind and its name with an article. UserError if it is no tokenizer's."""
    from ernie5.tokenizers.audio.folder import FOLDER as AUDIO
    from ernie5.tokenizers.vision.folder import FOLDER as VISION

    if VISION.is_one(folder):
        return vision, "a vision"
    if AUDIO.is_one(folder):
        return audio, "an audio"
    if not (folder / "tokenizer_config.json").is_file():
        raise UserError(f"{folder} is no tokenizer folder: name one that tools/tokenizer.py train wrote")
    return text, "a text"


if __name__ == "__main__":
    exit_cleanly(main)
