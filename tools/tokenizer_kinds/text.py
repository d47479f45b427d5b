"""Text tokenizers: byte-pair merges."""

import argparse
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ernie5.errors import UserError

if TYPE_CHECKING:  # imported where it is used, so that --help answers at once
    from ernie5.tokenizers.text import TextTokenizer

PIECE_BYTES = 1 << 20  # a long text is read in pieces of about this size
SHOWN_CHARACTERS = 1000  # of a file, in brackets
LONGEST_SHOWN = 40
COLOURS = ("\x1b[48;5;24m", "\x1b[48;5;53m", "\x1b[48;5;22m")
PLAIN = "\x1b[0m"


def add_train(kinds: argparse._SubParsersAction) -> None:
    train = kinds.add_parser("text", help="byte-pair merges over UTF-16BE")
    train.set_defaults(run=run_train)
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


def run_train(args: argparse.Namespace) -> None:
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


def inspect_folder(args: argparse.Namespace) -> None:
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
