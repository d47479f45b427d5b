"""Draws who sees whom in a row, for every rule of the attention mask: real rows, read by the mask that training uses.

python tools/draw_masks.py --output docs/images/masks

Writes a PNG for each rule, and masks.json with a digest of each mask: a test compares them with those of today.
"""

import argparse
import hashlib
import json
import tempfile
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ernie5.errors import UserError, exit_cleanly

if TYPE_CHECKING:  # imported where it is used, so that --help answers at once
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ernie5.data.sample import Segment
    from ernie5.data.visual import VisionSettings
    from ernie5.modality.unified import UnifiedSequence, VisualMedium

STRIDE = 4  # pixels along the side of a latent cell
PICTURE, FRAME = (4, 4), (2, 2)  # sizes in latent cells of what is generated
SCALES = {PICTURE: ((1, 1), (2, 2), (4, 4)), FRAME: ((1, 1), (1, 2), (2, 2))}
MASKS_FRAME_1 = 2  # a seed whose draw masks frame 1 of 4 and no other, at probability 0.3

HIDDEN, GRID, EDGE = "#ffffff", "#e9ebee", "#8b929c"
COLOURS = {
    "text": "#5b6b82",
    "understood": "#e8a33d",
    "generated, scale 1": "#9ed8c6",
    "generated, scale 2": "#2f9e83",
    "generated, S_S": "#7c4dab",
    "padding": "#b4bac3",
}
CELL = 0.17  # inches
MARGIN = 0.3  # inches around everything; the title stands in it
BANDS = {"document": 0.2, "medium": 0.2, "group": 0.68}  # inches: labels of tokens, from the outside in


class Row(NamedTuple):
    """A row and who sees whom in it."""

    title: str
    sequence: "UnifiedSequence"
    visible: "np.ndarray"  # bool [query, key]


class CharacterTokenizer:
    """An id a character, and the marks that data needs."""

    pad_id, bos_id, eos_id = 0, 1, 2
    special_ids = {"<boi>": 3, "<eoi>": 4, "<bov>": 5, "<eov>": 6, "<sep>": 7, "<image>": 8, "<video>": 9}
    marks = {1: "<s>", 2: "</s>", 3: "BOI", 4: "EOI", 5: "BOV", 6: "EOV", 7: "SEP"}

    def encode(self, text: str, bpe_dropout: float = 0.0, seed: int | None = None) -> list[int]:
        return [10 + ord(character) for character in text]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the pictures")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.output.exists() and not arguments.output.is_dir():
        raise UserError(f"--output {arguments.output}: is a file: give a folder")
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = make_rows(Path(folder))
    for name, row in rows.items():
        draw(row, arguments.output / f"{name}.png")
        print(f"{arguments.output / name}.png: {len(row.sequence)} tokens")
    digests = {name: digest(row.visible) for name, row in rows.items()}
    (arguments.output / "masks.json").write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")


def digest(visible: "np.ndarray") -> dict[str, int | str]:
    """What tells two masks apart: how many tokens there are, and the SHA-256 of the pairs, a byte each, by rows."""
    return {"tokens": len(visible), "sha256": hashlib.sha256(visible.tobytes()).hexdigest()}


def make_rows(folder: Path) -> dict[str, Row]:
    """A row for each rule; `folder` takes the media."""
    from ernie5.data.sample import Image, Text, Video

    picture = Image(write_media(folder / "picture.png", 1, PICTURE), "generate")
    small = Image(write_media(folder / "small.png", 1, FRAME), "generate")
    seen = Image(write_media(folder / "seen.png", 1, (4, 6)), "understand")
    film = Video(write_media(folder / "film.gif", 5, FRAME), 4.0, "generate")
    short = Video(write_media(folder / "short.gif", 4, FRAME), 4.0, "generate")
    watched = Video(write_media(folder / "watched.gif", 10, (4, 4)), 4.0, "understand")
    before, end = Text("look"), Text("end")
    texts = [[Text("a document")], [Text("next")], [Text("another")]]
    mixed = [[Text("doc")], [seen, Text("ask"), small], [short, end]]
    return {
        "text": make_row("Text: documents packed with walls between them", texts, padding=3),
        "picture_generated": make_row("Picture that is generated", [[before, picture, end]]),
        "film_generated": make_row("Film that is generated, window of 2 frames", [[before, film, end]], window=2),
        "film_masked_frame": make_row(
            "Film that is generated, frame 1 masked at random", [[before, short, end]], window=4, mask_probability=0.3
        ),
        "picture_understood": make_row("Picture that is understood, between texts", [[before, seen, end]]),
        "film_understood": make_row("Film of 10 frames that is understood, between texts", [[before, watched, end]]),
        "mixed": make_row("Everything in one row", mixed, window=1, padding=3),
    }


def write_media(path: Path, num_frames: int, cells: tuple[int, int]) -> str:
    """A picture, or a film of 4 frames a second, of so many latent cells; its frames differ."""
    from PIL import Image

    height, width = (n * STRIDE for n in cells)
    frames = [Image.new("RGB", (width, height), (20 * i, 0, 0)) for i in range(num_frames)]
    films = {"save_all": True, "append_images": frames[1:], "duration": 250} if num_frames > 1 else {}
    frames[0].save(path, **films)
    return str(path)


def make_row(
    title: str,
    documents: "list[list[Segment]]",
    padding: int = 0,
    window: int = 1,
    mask_probability: float = 0.0,
) -> Row:
    """The documents packed into one row, through the same code as training data."""

    from ernie5.data.media_settings import MediaSettings
    from ernie5.data.packing import Cursor, fill_row
    from ernie5.data.sample import Sample
    from ernie5.data.sequence import encode_sample
    from ernie5.ops.attention import Mask

    tokenizer, media = CharacterTokenizer(), MediaSettings(vision=vision_settings(window, mask_probability))
    samples = [
        encode_sample(Sample(segments=tuple(segments), origin=title), tokenizer, seed=MASKS_FRAME_1, media=media)
        for segments in documents
    ]
    length = sum(len(sample) for sample in samples) + padding
    row = fill_row(Cursor(), dict(enumerate(samples)).get, length, tokenizer.pad_id, "error")
    return Row(title, row, Mask(length, length, row.mask_rows[None]).visible(0, length)[0])


def vision_settings(window: int, mask_probability: float) -> "VisionSettings":
    """Of a small model that generates PICTURE and FRAME; nothing is drawn at random but masked frames."""
    from ernie5.config.schema import ResolutionConfig, VisionConfig, VisionDataConfig, VisionEncoderConfig, ViTConfig
    from ernie5.data.visual import VisionSettings

    model = VisionConfig(
        encoder=VisionEncoderConfig(channels=(4, 4, 4)),  # halved twice: STRIDE
        max_bits=4,
        resolutions=tuple(
            ResolutionConfig(height=height * STRIDE, width=width * STRIDE, scales=scales)
            for (height, width), scales in SCALES.items()
        ),
        vit=ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8),
        temporal_window=window,
    )
    data = VisionDataConfig(condition_dropout=0.0, frame_mask_probability=mask_probability)
    return VisionSettings(model, data)


class Token(NamedTuple):
    """What is written beside a token, and what colours its column."""

    document: str
    medium: str
    group: str
    colour: str


def describe(row: "UnifiedSequence") -> list[Token]:
    """What each token of the row is."""
    from ernie5.modality.unified import TokenKind

    tokens = []
    for i, (kind, number) in enumerate(zip(row.token_kind, row.document_ids, strict=True)):
        document = f"document {number}" if row.document_ids.max() > 0 and number >= 0 else ""
        if kind == TokenKind.TEXT:
            group = CharacterTokenizer.marks.get(int(row.input_ids[i]), "text")
            tokens.append(Token(document, "", group, "text"))
        elif kind == TokenKind.PADDING:
            tokens.append(Token("", "", "padding", "padding"))
        else:
            medium = next(m for m in row.media if m.start <= i < m.start + m.length)
            tokens.append(Token(document, *describe_visual(row, medium, i)))
    return tokens


def describe_visual(row: "UnifiedSequence", medium: "VisualMedium", place: int) -> tuple[str, str, str]:
    """(medium, group, colour) of a visual token."""
    from ernie5.modality.visual_layout import FRAMES_PER_TOKEN, generation_layout

    num_frames = len(medium.pixels)
    time = int(row.position_ids[place, 0] - row.position_ids[medium.start, 0])
    if not medium.scales:
        first = time * FRAMES_PER_TOKEN
        last = min(first + FRAMES_PER_TOKEN, num_frames) - 1
        label = "picture" if num_frames == 1 else f"frames {first}–{last}" if last > first else f"frame {first}"
        return "", label, "understood"
    scale = generation_layout(num_frames, medium.scales, 1).scale_ids[place - medium.start]
    group = f"scale {scale}" if scale else "S_S"
    return f"frame {time}" if num_frames > 1 else "picture", group, f"generated, {group}"


def draw(row: Row, path: Path) -> None:
    """The mask as a picture: queries from top to bottom, keys from left to right."""
    from matplotlib.figure import Figure

    tokens = describe(row.sequence)
    side = len(tokens) * CELL
    bands = {band: inches for band, inches in BANDS.items() if any(getattr(token, band) for token in tokens)}
    before = sum(bands.values()) + 0.45  # the labels of an axis, and its name
    top, legend = before + MARGIN, 0.75
    width, height = before + side + MARGIN, top + side + legend
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((before / width, legend / height, side / width, side / height))
    draw_pairs(axes, row.visible, tokens)
    depth = 0.06
    for band in reversed(bands):
        draw_band(axes, [getattr(token, band) for token in tokens], depth / CELL, bands[band] / CELL, band == "group")
        depth += bands[band]
    centre, outside = len(tokens) / 2, -(depth + 0.14) / CELL
    axes.text(centre, outside, "key: is seen", ha="center", va="center", fontsize=9)
    axes.text(outside, centre, "query: sees", ha="center", va="center", fontsize=9, rotation=90)
    figure.text(MARGIN / 2 / width, 1 - MARGIN / 2 / height, row.title, va="center", fontsize=11, weight="bold")
    draw_legend(figure, {token.colour for token in tokens})
    figure.savefig(path, dpi=130, metadata={"Software": None})


def draw_pairs(axes: "Axes", visible: "np.ndarray", tokens: list[Token]) -> None:
    """A coloured cell where the query sees the key; lines between groups."""
    import numpy as np
    from matplotlib.colors import to_rgb

    n = len(tokens)
    columns = np.array([to_rgb(COLOURS[token.colour]) for token in tokens])
    image = np.where(visible[:, :, None], columns[None], to_rgb(HIDDEN))
    axes.imshow(image, extent=(0, n, n, 0), interpolation="nearest")
    lines = np.arange(1, n)
    for draw_lines in (axes.hlines, axes.vlines):
        draw_lines(lines, 0, n, color=GRID, linewidth=0.4)
        draw_lines(starts([token[:3] for token in tokens])[1:], 0, n, color=EDGE, linewidth=0.6)
    axes.set(xticks=[], yticks=[], xlim=(0, n), ylim=(n, 0))
    for spine in axes.spines.values():
        spine.set(color=EDGE, linewidth=0.8)


def draw_band(axes: "Axes", labels: list[str], depth: float, thickness: float, across: bool) -> None:
    """A bar along both axes for each run of a label, `depth` cells outside; `across`: written across the bar."""
    from matplotlib.patches import Rectangle

    begins = starts(labels)
    for start, end in zip(begins, [*begins[1:], len(labels)], strict=True):
        if not labels[start]:
            continue
        label = labels[start].replace("S_S", "$S_S$")
        middle, outside = (start + end) / 2, -depth - thickness / 2
        box = {"facecolor": "#f4f5f7", "edgecolor": EDGE, "linewidth": 0.6, "clip_on": False}
        axes.add_patch(Rectangle((start, -depth - thickness), end - start, thickness, **box))
        axes.add_patch(Rectangle((-depth - thickness, start), thickness, end - start, **box))
        text = {"ha": "center", "va": "center", "fontsize": 7.5}
        axes.text(middle, outside, label, rotation=90 if across else 0, **text)
        axes.text(outside, middle, label, rotation=0 if across else 90, **text)


def starts(labels: list) -> list[int]:
    """Where a run of equal labels starts."""
    lengths = [len(list(run)) for _, run in groupby(labels)]
    return [sum(lengths[:i]) for i in range(len(lengths))]


def draw_legend(figure: "Figure", used: set[str]) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=colour, edgecolor=EDGE, linewidth=0.6, label=name.replace("S_S", "$S_S$"))
        for name, colour in {**COLOURS, "hidden": HIDDEN}.items()
        if name in used or name == "hidden"
    ]
    columns = min(len(patches), max(int(figure.get_figwidth() / 1.35), 1))
    figure.legend(handles=patches, loc="lower center", ncols=columns, frameon=False, fontsize=8, title="key is",
                  title_fontsize=8)  # fmt: skip


if __name__ == "__main__":
    exit_cleanly(main)
