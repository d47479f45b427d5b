"""Reads a corpus as training would, pictures, films and sounds too, and says what is in it, and what is wrong with it.

python tools/check_data.py data/mine.jsonl
python tools/check_data.py -c configs/run/mine.yaml --tokenizer runs/mine/tokenizer
"""

import argparse
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from ernie5.config.schema import SourceConfig
from ernie5.errors import UserError, exit_cleanly

SHOWN = 20  # malformed lines, and media that cannot be read, that are quoted
BAR = 40  # characters of the histogram's longest bar


class Limits(NamedTuple):
    """How long media may be, and how sounds are read; as here where no model says it."""

    max_frames: int = 64
    max_seconds: float = 600.0
    sample_rate: int = 16_000


@dataclass
class Findings:
    """What a source holds."""

    segments: Counter = field(default_factory=Counter)
    characters: int = 0
    bytes: int = 0
    tokens: int = 0
    sizes: list[int] = field(default_factory=list)  # of each document: tokens if they are known, else characters
    longest: tuple[int, str] = (0, "")  # size and origin
    bad: list[str] = field(default_factory=list)  # lines
    # Of each medium its shape, of a sound its seconds; or why it has none.
    media: dict[tuple, str | tuple[int, ...] | float] = field(default_factory=dict)
    bad_media: list[str] = field(default_factory=list)  # lines that show a medium which cannot be read


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
    sources, limits, skips = sources_of(arguments)
    tokenizer = None
    if arguments.tokenizer:
        from ernie5.tokenizers.text import TextTokenizer

        tokenizer = TextTokenizer.from_pretrained(arguments.tokenizer)
    bad, bad_media = [], []
    for source in sources:
        findings = examine(source, tokenizer, limits)
        report(source, findings, "tokens" if tokenizer else "characters")
        bad += findings.bad
        bad_media += findings.bad_media
    if bad and not skips:
        raise UserError(f"{bad[0]} ({len(bad)} malformed in all; data.bad_line: skip would leave them out)")
    if bad_media:
        raise UserError(f"{bad_media[0]} ({len(bad_media)} such in all; a run stops at them)")


def sources_of(arguments: argparse.Namespace) -> tuple[list[SourceConfig], Limits, bool]:
    """The sources to read, how long media may be, and whether a run would leave malformed lines out."""
    if bool(arguments.path) == bool(arguments.config):
        raise UserError("name either a path or a run file with -c")
    if arguments.path:
        path, separator = arguments.path, arguments.separator
        source = SourceConfig(name=path, path=path, format=arguments.format, document_separator=separator)
        return [source], Limits(), False
    from ernie5.config.load import load_config

    config = load_config(arguments.config, arguments.opt)
    data, vision, audio = config.data, config.model.vision, config.model.audio
    limits = Limits()
    if vision:
        limits = limits._replace(max_frames=vision.max_frames)
    if audio:
        limits = limits._replace(max_seconds=audio.max_seconds, sample_rate=audio.sample_rate)
    return [*data.train, *data.validation], limits, data.bad_line == "skip"


def examine(source: SourceConfig, tokenizer, limits: Limits) -> Findings:
    from tqdm import tqdm

    from ernie5.data.manifest import BadLine
    from ernie5.data.sequence import encode_sample
    from ernie5.data.sources import open_source

    found, corpus = Findings(), open_source(source)
    for i in tqdm(range(len(corpus)), desc=source.name, unit=" documents", leave=False, disable=None):
        try:
            sample = corpus[i]
        except BadLine as error:
            found.bad.append(str(error))
            continue
        kinds = [type(segment).__name__.lower() for segment in sample.all_segments()]
        found.segments.update(kinds)
        look_at_media(sample, found, limits)
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


def look_at_media(sample, found: Findings, limits: Limits) -> None:
    """Decodes the sample's pictures, films and sounds, each file once: only that finds one that was cut off."""
    from ernie5.data.media import read_image, read_video
    from ernie5.data.sample import Audio, Image, Video
    from ernie5.data.sounds import read_sound

    for medium in sample.all_segments():
        if not isinstance(medium, Image | Video | Audio):
            continue
        key = (type(medium).__name__, medium.source, getattr(medium, "fps", None))
        if key not in found.media:
            try:
                if isinstance(medium, Image):
                    found.media[key] = read_image(medium.source).shape
                elif isinstance(medium, Video):
                    found.media[key] = read_video(medium.source, medium.fps, limits.max_frames).shape
                else:
                    samples = read_sound(medium.source, limits.sample_rate, limits.max_seconds)
                    found.media[key] = len(samples) / limits.sample_rate
            except UserError as error:
                found.media[key] = str(error)
        if isinstance(found.media[key], str):
            found.bad_media.append(f"{sample.origin}: {found.media[key]}")


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
    print_media(found)
    print_causes("malformed", found.bad)
    print_causes("bad media", found.bad_media)


def print_media(found: Findings) -> None:
    """How many different media could be read, with the smallest and the largest, or shortest and longest, of them."""
    seconds = sorted(seconds for seconds in found.media.values() if isinstance(seconds, float))
    if seconds:
        between = " to ".join(dict.fromkeys(f"{value:.2f}" for value in (seconds[0], seconds[-1])))
        print(f"  sounds      {len(seconds):,} different, {between} s, {sum(seconds):,.0f} s in all")
    for kind, name in (("Image", "pictures"), ("Video", "films")):
        shapes = [shape for key, shape in found.media.items() if key[0] == kind and not isinstance(shape, str)]
        if not shapes:
            continue
        sizes = sorted({(width * height, f"{width} x {height}") for _, height, width, _ in shapes})
        frames = sorted({shape[0] for shape in shapes})
        between = " to ".join(dict.fromkeys((sizes[0][1], sizes[-1][1])))
        length = f", {' to '.join(dict.fromkeys((f'{frames[0]}', f'{frames[-1]}')))} frames" if kind == "Video" else ""
        print(f"  {name:<11} {len(shapes):,} different, {between} pixels{length}")


def print_causes(what: str, causes: list[str]) -> None:
    """How many there are, and the first of them."""
    if causes:
        print(f"  {what:<11} {len(causes):,}")
        for cause in causes[:SHOWN]:
            print(f"    {cause}")
        if len(causes) > SHOWN:
            print(f"    ... and {len(causes) - SHOWN:,} more")


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
