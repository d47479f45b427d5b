"""Pictures and films of folders and manifests, read into memory at the sizes of a table, for a vision tokenizer."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ernie5.config.schema import ResolutionConfig, SourceConfig
from ernie5.data.media import fit_resolution, read_image, read_video
from ernie5.data.sample import Image, Video
from ernie5.data.sources import find_files, open_source
from ernie5.errors import UserError

PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif"}
FILM_ENDINGS = {".gif", ".mp4", ".webm", ".mkv", ".avi", ".mov", ".mpg", ".mpeg"}


File = TypeVar("File")


class MediaFile(NamedTuple):
    """A picture, or with frames a second a film."""

    path: str
    fps: float | None = None


def find_media(paths: Sequence[str], fps: float) -> list[MediaFile]:
    """The media of manifests (*.jsonl: all media segments), of folders, of globs and single files, each once, in order.

    Films that no manifest describes are looked at `fps` times a second. Raises UserError for a path without media.
    """
    found: dict[MediaFile, None] = {}
    for path in paths:
        media = _of_manifest(path) if path.endswith(".jsonl") else _of_files(path, fps)
        before = len(found)
        found.update(dict.fromkeys(media))
        if len(found) == before:
            raise UserError(f"{path}: holds no picture and no film that was not named before: correct the path")
    return list(found)


def choose_evenly(files: Sequence[File], number: int) -> list[File]:
    """At most `number` of the files, evenly spread over them; 0: all."""
    if number == 0 or len(files) <= number:
        return list(files)
    return [files[i * len(files) // number] for i in range(number)]


def split_off(files: Sequence[File], fraction: float, seed: int) -> tuple[list[File], list[File]]:
    """The rest and a random share of the files, at least one. UserError if there are fewer than two."""
    if len(files) < 2:
        raise UserError("data.train holds a single medium: add more, or name data.validation")
    number = min(max(1, round(len(files) * fraction)), len(files) - 1)
    chosen = set(np.random.default_rng(seed).choice(len(files), number, replace=False).tolist())
    rest = [file for i, file in enumerate(files) if i not in chosen]
    return rest, [files[i] for i in sorted(chosen)]


def read_media(
    files: Sequence[MediaFile],
    resolutions: Sequence[ResolutionConfig],
    max_frames: int,
    progress: Callable[[int], object] = lambda n: None,
) -> list[np.ndarray]:
    """Each medium at its nearest size of the table, uint8 [frames, height, width, 3]. UserError names a bad file."""
    media = []
    for file in files:
        frames = read_image(file.path) if file.fps is None else read_video(file.path, file.fps, max_frames)
        media.append(fit_resolution(frames, resolutions))
        progress(1)
    return media


def _of_manifest(path: str) -> Iterator[MediaFile]:
    corpus = open_source(SourceConfig(name=path, path=path))
    for i in range(len(corpus)):
        for segment in corpus[i].all_segments():
            if isinstance(segment, Image):
                yield MediaFile(segment.source)
            elif isinstance(segment, Video):
                yield MediaFile(segment.source, segment.fps)


def _of_files(path: str, fps: float) -> Iterator[MediaFile]:
    for file in find_files(SourceConfig(name=path, path=path)):
        ending = Path(file).suffix.lower()
        if ending in FILM_ENDINGS:
            yield MediaFile(file, fps)
        elif ending in PICTURE_ENDINGS:
            yield MediaFile(file)
