"""An index of sounds (JSONL): one sound a line, with what is said in it and by whom.

{"sound": "sounds/0.wav", "text": "seven", "speaker": "f1", "split": "train"}

`sound` is a path relative to the file, inside its folder; the others may be missing, and other keys are passed over.
"""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from ernie5.data.records import BadLine, LineChecks, parse_json
from ernie5.errors import UserError

_BOM = b"\xef\xbb\xbf"
_OPTIONAL = ("text", "speaker", "split")


class Utterance(NamedTuple):
    """A file of sound; "" where the index does not say."""

    path: str
    text: str = ""
    speaker: str = ""
    split: str = ""


def is_index(path: str) -> bool:
    """Whether the first line of a JSONL file has a `sound`; a manifest of samples has none. BadLine: it is no JSON."""
    first = next(_lines(path), None)
    return first is not None and isinstance(record := parse_json(*first), dict) and "sound" in record


def read_index(path: str) -> list[Utterance]:
    """The sounds in the order of their lines. Raises UserError, as BadLine with file and line for what is malformed."""
    utterances = [_utterance(*line, os.path.dirname(path)) for line in _lines(path)]
    if not utterances:
        raise UserError(f"{path}: holds no line: name an index of sounds that does")
    return utterances


def _lines(path: str) -> Iterator[tuple[bytes, str]]:
    """Lines that are not blank, with where they stand."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                line = line.removeprefix(_BOM) if number == 1 else line
                if line.strip():
                    yield line, f"{path}:{number}"
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): correct the path or its permissions") from None


def _utterance(line: bytes, origin: str, folder: str) -> Utterance:
    checks = LineChecks(origin, folder)
    record: Any = parse_json(line, origin)
    checks.expect(record, dict, "the line")
    sound = checks.media_path(checks.field(record, "sound", str, ""), "sound")
    return Utterance(sound, *(checks.field(record, key, str, "") if key in record else "" for key in _OPTIONAL))


__all__ = ["BadLine", "Utterance", "is_index", "read_index"]
