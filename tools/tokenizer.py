"""Trains and inspects tokenizers.

python tools/tokenizer.py train text --input pydoc --vocab-size 4096 --output runs/tokenizer
python tools/tokenizer.py train vision -c configs/tokenizer/digits.yaml
python tools/tokenizer.py inspect runs/tokenizer --text "Hello, world"
python tools/tokenizer.py inspect runs/vision_tokenizer --media data/digits/validation.jsonl --sheet sheet.png
"""

import argparse
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ernie5.errors import UserError, exit_cleanly

if TYPE_CHECKING:  # imported where it is used, so that --help answers at once
    import numpy as np

    from ernie5.config.schema import ResolutionConfig
    from ernie5.data.media_set import MediaFile
    from ernie5.tokenizers.text import TextTokenizer
    from ernie5.tokenizers.vision.evaluate import Quality

PIECE_BYTES = 1 << 20  # a long text is read in pieces of about this size
SHOWN_CHARACTERS = 1000  # of a file, in brackets
LONGEST_SHOWN = 40
MAX_INSPECTED = 256  # media that quality is measured on
MAX_FRAMES = 64  # of an inspected film
COLOURS = ("\x1b[48;5;24m", "\x1b[48;5;53m", "\x1b[48;5;22m")
PLAIN = "\x1b[0m"


def main() -> None:
    args = parse_args()
    args.run(args)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    kinds = commands.add_parser("train", help="learn a tokenizer and save it in a folder").add_subparsers(
        required=True, metavar="KIND"
    )
    add_train_text(kinds)
    add_train_vision(kinds)
    inspect = commands.add_parser("inspect", help="show a saved tokenizer, and what it does to a text or to media")
    inspect.set_defaults(run=inspect_folder)
    inspect.add_argument("folder", type=Path, metavar="DIR")
    shown = inspect.add_mutually_exclusive_group()
    shown.add_argument("--text", metavar="TEXT", help="a text to cut")
    shown.add_argument("--file", type=Path, metavar="FILE", help="a UTF-8 file to cut")
    shown.add_argument("--media", nargs="+", metavar="PATH", help="vision: files, folders or manifests to reconstruct")
    inspect.add_argument("--sheet", type=Path, metavar="PNG", help="vision: where to draw media beside reconstructions")
    inspect.add_argument("--fps", type=float, default=4.0, metavar="F", help="vision: frames a second of films (4)")
    inspect.add_argument(
        "--max-frames", type=int, default=MAX_FRAMES, metavar="N", help=f"vision: of a film at most ({MAX_FRAMES})"
    )
    return parser.parse_args()


def add_train_text(kinds: argparse._SubParsersAction) -> None:
    train = kinds.add_parser("text", help="byte-pair merges over UTF-16BE")
    train.set_defaults(run=train_text)
    train.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="files, folders or globs, plain text or JSONL; or `pydoc`, CPython's own documentation",
    )
    train.add_argument("--vocab-size", type=int, required=True, metavar="N", help="ids, special tokens included")
    train.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the saved tokenizer")
    train.add_argument(
        "--segmenter",
        choices=("none", "jieba"),
        default="none",
        help="cuts Chinese into words before merges are learned; none: only a limit on the length of pieces",
    )
    train.add_argument("--max-bytes", type=int, default=100_000_000, metavar="N", help="of text read (default 100 MB)")
    train.add_argument("--num-threads", type=int, metavar="N", help="default: as many as cores")


def add_train_vision(kinds: argparse._SubParsersAction) -> None:
    train = kinds.add_parser(
        "vision",
        help="causal multi-scale bit-wise autoencoder of pictures and films",
        description="Example: python tools/tokenizer.py train vision -c configs/tokenizer/digits.yaml "
        "-o data.train=[my_pictures/] -o train.video_steps=0 -o output_dir=runs/mine",
    )
    train.set_defaults(run=train_vision)
    train.add_argument("-c", "--config", type=Path, required=True, metavar="YAML", help="such as configs/tokenizer/*")
    train.add_argument(
        "-o", "--opt", action="append", default=[], metavar="KEY=VALUE", help="override: -o tokenizer.bits=8"
    )


def train_text(args: argparse.Namespace) -> None:
    from ernie5.tokenizers.text import jieba_segmenter, train_tokenizer

    segmenter = jieba_segmenter() if args.segmenter == "jieba" else None
    tokenizer = train_tokenizer(
        read_texts(args.input, args.max_bytes),
        args.vocab_size,
        max_bytes=args.max_bytes,
        segmenter=segmenter,
        num_threads=args.num_threads,
    )
    tokenizer.save_pretrained(args.output)
    print(f"{args.output}: {tokenizer.vocab_size} ids, digest {tokenizer.digest[:12]}")


def read_texts(inputs: list[str], max_bytes: int) -> Iterator[str]:
    """The texts of the inputs, with a progress bar over their bytes. Raises UserError if an input holds no text."""
    from tqdm import tqdm

    from ernie5.config.schema import SourceConfig
    from ernie5.data.pieces import Pieces
    from ernie5.data.sample import Text
    from ernie5.data.sources import open_source

    corpora = [open_source(SourceConfig(name=path, path=path)) for path in inputs]
    total = min(max_bytes, sum(corpus.num_bytes for corpus in corpora))
    with tqdm(total=total, unit="B", unit_scale=True, desc="reading", leave=False) as bar:
        for corpus in corpora:
            pieces = Pieces(corpus, PIECE_BYTES, seed=0)
            for i in range(len(pieces)):
                for segment in pieces.sample(i, epoch=0).all_segments():
                    if isinstance(segment, Text):
                        yield segment.text
                        bar.update(len(segment.text.encode("utf-8", "surrogatepass")))
        bar.set_description("learning merges")
        bar.refresh()


def train_vision(args: argparse.Namespace) -> None:
    from ernie5.config.load import load_as
    from ernie5.config.vision_tokenizer import VisionTokenizerRunConfig, check_run

    config = load_as(VisionTokenizerRunConfig, args.config, args.opt)
    check_run(config, str(args.config))
    start_paddle(config.train.threads)
    from ernie5.data.media_set import choose_evenly, find_media, split_off
    from ernie5.tokenizers.vision.train import check_start, train_vision_tokenizer

    data = config.data
    files, held_out = find_media(data.train, data.fps), find_media(data.validation, data.fps)
    if not held_out:
        files, held_out = split_off(files, data.validation_fraction, config.train.seed)
    check_start(config)  # before the media are read, which takes long
    sizes = config.tokenizer.resolutions
    media = read_with_progress(choose_evenly(files, data.max_media), sizes, data.max_frames)
    validation = read_with_progress(choose_evenly(held_out, data.max_validation_media), sizes, data.max_frames)
    tokenizer, quality = train_vision_tokenizer(config, media, validation)
    print(f"{config.output_dir}: {tokenizer.config.bits} bits, digest {tokenizer.digest[:12]}")
    show_quality(quality)


def inspect_folder(args: argparse.Namespace) -> None:
    from ernie5.tokenizers.vision.folder import FOLDER

    if FOLDER.is_one(args.folder):
        if args.text is not None or args.file is not None:
            raise UserError(f"{args.folder} is a vision tokenizer: give --media, not a text")
        inspect_vision(args)
    else:
        if not (args.folder / "tokenizer_config.json").is_file():
            raise UserError(f"{args.folder} is no tokenizer folder: name one that tools/tokenizer.py train wrote")
        if args.media is not None or args.sheet is not None:
            raise UserError(f"{args.folder} is no vision tokenizer: give --text or --file, not media")
        inspect_text(args)


def inspect_vision(args: argparse.Namespace) -> None:
    start_paddle()
    from ernie5.data.media_set import choose_evenly, find_media
    from ernie5.tokenizers.vision.evaluate import evaluate
    from ernie5.tokenizers.vision.tokenizer import VisionTokenizer
    from ernie5.tokenizers.vision.train import save_sheet

    check_inspection(args)
    tokenizer = VisionTokenizer.from_pretrained(args.folder)
    config = tokenizer.config
    print(f"bits        {config.bits}, {config.quantizer}")
    print(f"digest      {tokenizer.digest}")
    print(f"parameters  {sum(parameter.size for parameter in tokenizer.parameters())}")
    print(f"stride      {config.encoder.stride} in space, {config.encoder.temporal_stride} in time")
    for resolution in config.resolutions:
        scales = " ".join(f"{height}x{width}" for height, width in resolution.scales)
        print(f"size        {resolution.height} x {resolution.width}: scales {scales}")
    if args.media is not None:
        files = choose_evenly(find_media(args.media, args.fps), MAX_INSPECTED)
        media = read_with_progress(files, config.resolutions, args.max_frames)
        show_quality(evaluate(tokenizer, media))
        save_sheet(tokenizer, media, args.sheet)


def check_inspection(args: argparse.Namespace) -> None:
    """UserError for options that do not fit, before anything takes long."""
    if (args.media is None) != (args.sheet is None):
        raise UserError("--media and --sheet go together: give both, or neither")
    if args.fps <= 0 or args.max_frames < 1:
        raise UserError(f"--fps is {args.fps} and --max-frames {args.max_frames}: give numbers above 0")
    sheet = args.sheet
    if sheet is not None and (sheet.suffix.lower() != ".png" or sheet.is_dir() or not sheet.parent.is_dir()):
        raise UserError(f"--sheet: {sheet} cannot be written: name a .png file in a folder that exists")


def inspect_text(args: argparse.Namespace) -> None:
    from ernie5.tokenizers.text import SPECIAL_TOKENS, TextTokenizer

    tokenizer = TextTokenizer.from_pretrained(args.folder)
    if args.text is not None or args.file is not None:
        show_text(tokenizer, args.text if args.text is not None else read_file(args.file))
        return
    named = [token for token in SPECIAL_TOKENS if "reserved" not in token]
    print(f"ids         {tokenizer.vocab_size}")
    print(f"digest      {tokenizer.digest}")
    print(f"special     {' '.join(named)} and {len(SPECIAL_TOKENS) - len(named)} reserved")
    learned = tokenizer.learned_pieces()
    print(f"code units  {sum(len(piece) == 1 for piece in learned)}")
    print("scripts     " + ", ".join(f"{name} {share:.1%}" for name, share in script_shares(learned)))
    longest = sorted(learned, key=len, reverse=True)[:LONGEST_SHOWN]
    print("longest     " + " ".join(ascii_safe(repr(piece)) for piece in longest))


def start_paddle(threads: int = 0) -> None:
    from ernie5.config.schema import OpsConfig
    from ernie5.ops import runtime

    runtime.start_paddle(threads)
    runtime.configure(OpsConfig())


def read_with_progress(
    files: "Sequence[MediaFile]", resolutions: "Sequence[ResolutionConfig]", max_frames: int
) -> "list[np.ndarray]":
    from tqdm import tqdm

    from ernie5.data.media_set import read_media

    with tqdm(total=len(files), unit="file", desc="reading", leave=False) as bar:
        return read_media(files, resolutions, max_frames, bar.update)


def show_quality(quality: "Quality") -> None:
    """A line for each prefix of the scales: what it makes, and how evenly the bits of its last scale are used."""
    for k, (psnr, entropy) in enumerate(zip(quality.psnr, quality.entropy, strict=True), 1):
        left = len(quality.psnr) - k
        scales = f"without the last {left}" if left else "all scales"
        print(f"{scales:<18}  PSNR {psnr:.2f} dB, entropy {entropy:.3f} of a bit of its last scale")


def show_text(tokenizer: "TextTokenizer", text: str) -> None:
    """The beginning of a text in its pieces, coloured on a terminal and else in brackets, and how many there are."""
    shown = [show_piece(tokenizer.token_text(i)) for i in tokenizer.encode(text[:SHOWN_CHARACTERS])]
    if sys.stdout.isatty():
        print("".join(f"{COLOURS[i % len(COLOURS)]}{piece}{PLAIN}" for i, piece in enumerate(shown)))
    else:
        print("".join(f"[{piece}]" for piece in shown))
    ids = tokenizer.encode(text)
    if text:
        size = len(text.encode("utf-8", "surrogatepass"))
        print(
            f"{len(ids)} tokens for {len(text)} characters: {len(ids) / len(text):.3f} a character, "
            f"{size / len(ids):.2f} bytes of UTF-8 a token"
        )


def show_piece(piece: str) -> str:
    return ascii_safe(piece.replace("\n", "⏎\n").replace("\t", "⇥"))


def ascii_safe(text: str) -> str:
    """Lone surrogates, which no terminal can show, as \\udXXX."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def script_shares(pieces: list[str]) -> list[tuple[str, float]]:
    """The share of the pieces in each script, largest first: that of the first letter, by its Unicode name."""
    counts: Counter[str] = Counter()
    for piece in pieces:
        letter = next((character for character in piece if unicodedata.category(character)[0] in "LM"), None)
        counts["no letter" if letter is None else unicodedata.name(letter, "OTHER").split(" ")[0].lower()] += 1
    return [(name, count / len(pieces)) for name, count in counts.most_common()]


def read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a text file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): convert it (iconv -t utf-8)") from error


if __name__ == "__main__":
    exit_cleanly(main)
