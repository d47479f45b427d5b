"""Reads a corpus as training would and says what is in it, and what is wrong with it.

python tools/check_data.py data/mine.jsonl
python tools/check_data.py -c configs/run/mine.yaml --tokenizer runs/mine/tokenizer
"""

import argparse
from collections import Counter
from dataclasses import dataclass, field

from ernie5.config.schema import SourceConfig
from ernie5.errors import UserError, exit_cleanly

SHOWN = 20  # malformed lines that are quoted
BAR = 40  # characters of the histogram's longest bar


@dataclass
class Findings:
    """What a source holds."""

    segments: Counter = field(default_factory=Counter)
    characters: int = 0
    bytes: int = 0
    tokens: int = 0
    sizes: list[int] = field(default_factory=list)  # of each document: tokens if they are known, else characters
    longest: tuple[int, str] = (0, "")  # size and origin
    bad: list[str] = field(default_factory=list)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", nargs="?", help="file, folder, glob or `pydoc`")
    parser.add_argument("-c", "--config", help="run file whose data is checked instead")
    parser.add_argument("-o", "--opt", action="append", default=[], metavar="KEY=VALUE", help="change a setting of it")
    parser.add_argument("--format", choices=("auto", "jsonl", "text", "pydoc"), default="auto", help="of the path")
    parser.add_argument("--separator", choices=("file", "blank_line", "line"), default="file", help="of plain text")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="count tokens with this saved tokenizer")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    sources, skips = sources_of(arguments)
    tokenizer = None
    if arguments.tokenizer:
        from ernie5.tokenizers.text import TextTokenizer

        tokenizer = TextTokenizer.from_pretrained(arguments.tokenizer)
    bad = []
    for source in sources:
        findings = examine(source, tokenizer)
        report(source, findings, "tokens" if tokenizer else "characters")
        bad += findings.bad
    if bad and not skips:
        raise UserError(f"{bad[0]} ({len(bad)} malformed in all; data.bad_line: skip would leave them out)")


def sources_of(arguments: argparse.Namespace) -> tuple[list[SourceConfig], bool]:
    """The sources to read, and whether a run would leave malformed lines out."""
    if bool(arguments.path) == bool(arguments.config):
        raise UserError("name either a path or a run file with -c")
    if arguments.path:
        path, separator = arguments.path, arguments.separator
        return [SourceConfig(name=path, path=path, format=arguments.format, document_separator=separator)], False
    from ernie5.config.load import load_config

    data = load_config(arguments.config, arguments.opt).data
    return [*data.train, *data.validation], data.bad_line == "skip"


def examine(source: SourceConfig, tokenizer) -> Findings:
    from ernie5.data.manifest import BadLine
    from ernie5.data.sequence import encode_sample
    from ernie5.data.sources import open_source

    found, corpus = Findings(), open_source(source)
    for i in range(len(corpus)):
        try:
            sample = corpus[i]
        except BadLine as error:
            found.bad.append(str(error))
            continue
        kinds = [type(segment).__name__.lower() for segment in sample.all_segments()]
        found.segments.update(kinds)
        texts = [segment.text for segment in sample.all_segments() if hasattr(segment, "text")]
        size = sum(map(len, texts))
        found.characters += size
        found.bytes += sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        if tokenizer and set(kinds) <= {"text"}:
            size = len(encode_sample(sample, tokenizer))
            found.tokens += size
        found.sizes.append(size)
        found.longest = max(found.longest, (size, sample.origin))
    return found


def report(source: SourceConfig, found: Findings, unit: str) -> None:
    print(f"\n{source.name}  ({source.path})")
    print(f"  documents   {len(found.sizes):,}")
    print(f"  segments    {', '.join(f'{count:,} {kind}' for kind, count in found.segments.most_common()) or 'none'}")
    print(f"  characters  {found.characters:,}")
    print(f"  bytes       {found.bytes:,}")
    if unit == "tokens":
        ratio = f", {found.bytes / found.tokens:.2f} bytes a token" if found.tokens else ""
        print(f"  tokens      {found.tokens:,}{ratio}")
    if found.sizes:
        print(f"  longest     {found.longest[0]:,} {unit}, {found.longest[1]}")
        print_histogram(found.sizes, unit)
    if found.bad:
        print(f"  malformed   {len(found.bad):,}")
        for cause in found.bad[:SHOWN]:
            print(f"    {cause}")
        if len(found.bad) > SHOWN:
            print(f"    ... and {len(found.bad) - SHOWN:,} more")


def print_histogram(sizes: list[int], unit: str) -> None:
    """Documents by size, a line a power of two."""
    counts = Counter(size.bit_length() for size in sizes)
    widest = len(f"{1 << max(counts):,}")
    print(f"  documents by number of {unit}")
    for bits in range(min(counts), max(counts) + 1):
        bar = "#" * -(-counts[bits] * BAR // max(counts.values()))
        print(f"    below {1 << bits:>{widest},}  {counts[bits]:>9,}  {bar}".rstrip())


if __name__ == "__main__":
    exit_cleanly(main)
