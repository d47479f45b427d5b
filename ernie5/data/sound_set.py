"""Sounds of folders, manifests and indexes, read into memory at one rate, for the audio tokenizer and its teachers."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ernie5.config.schema import SourceConfig
from ernie5.data.sample import Audio
from ernie5.data.sounds import sound_blocks
from ernie5.data.sources import find_files, open_source
from ernie5.data.transcripts import Utterance, is_index, read_index
from ernie5.errors import UserError

SOUND_ENDINGS = {".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus"}


class Clip(NamedTuple):
    """A sound in memory, or a piece of it."""

    samples: np.ndarray  # float32 [samples] in [-1, 1], mono
    text: str  # "" if it is not known, or the sound was cut
    speaker: str  # "" if it is not known


def find_sounds(paths: Sequence[str], split: str = "") -> list[Utterance]:
    """The sounds of indexes and manifests (*.jsonl), of folders, globs and single files, each once, in order.

    With a `split`, lines of an index that name another one are left out. UserError for a path without a sound.
    """
    found: dict[str, Utterance] = {}
    for path in paths:
        before = len(found)
        for utterance in _of_lines(path, split) if path.endswith(".jsonl") else _of_files(path):
            found.setdefault(utterance.path, utterance)
        if len(found) == before:
            named = f' of the split "{split}"' if split else ""
            raise UserError(f"{path}: holds no sound{named} that was not named before: correct the path")
    return list(found.values())


def read_clips(
    utterances: Sequence[Utterance],
    sample_rate: int,
    max_seconds: float,
    progress: Callable[[int], object] = lambda n: None,
) -> list[Clip]:
    """Each sound at this rate; a longer one in pieces of `max_seconds`, without its text. UserError: a bad file."""
    clips = []
    for utterance in utterances:
        samples = np.concatenate(list(sound_blocks(utterance.path, sample_rate)))
        most = round(max_seconds * sample_rate)
        pieces = [samples[start : start + most] for start in range(0, len(samples), most)]
        text = utterance.text if len(pieces) == 1 else ""
        clips += [Clip(piece, text, utterance.speaker) for piece in pieces]
        progress(1)
    return clips


def _of_lines(path: str, split: str) -> Iterator[Utterance]:
    if is_index(path):
        yield from (line for line in read_index(path) if not split or line.split in ("", split))
        return
    corpus = open_source(SourceConfig(name=path, path=path))
    for i in range(len(corpus)):
        for segment in corpus[i].all_segments():
            if isinstance(segment, Audio):
                yield Utterance(segment.source)


def _of_files(path: str) -> Iterator[Utterance]:
    """A single file is taken whatever its ending: its content will say what it is."""
    for file in find_files(SourceConfig(name=path, path=path)):
        if file == path or Path(file).suffix.lower() in SOUND_ENDINGS:
            yield Utterance(file)
