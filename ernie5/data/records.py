"""One line of a JSONL file as an object, and what its values must be; every refusal says where the line stands."""

import difflib
import json
import os
from typing import Any

from ernie5.errors import UserError


class BadLine(UserError):
    """A line that is no sample; the one mistake that `bad_line: skip` forgives."""


_KINDS = {str: "text", bool: "true or false", list: "a list", dict: "an object", int: "a number", float: "a number"}


def parse_json(line: bytes, origin: str) -> Any:
    """The value in a line. Raises BadLine: not UTF-8, not JSON, or a key twice."""
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=_without_repeats)
    except UnicodeDecodeError as error:
        raise BadLine(f"{origin}: byte {error.start + 1} of the line is not UTF-8: save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadLine(f"{origin}: not JSON ({error.msg} at column {error.colno}): write one object a line") from None
    except (ValueError, RecursionError) as error:
        raise BadLine(f"{origin}: not usable JSON ({error}): write one plain object a line") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(f'the key "{repeated}" stands twice')
    return dict(pairs)


class LineChecks:
    """What a parser of one line asks of its values: knows where it stands, so that every refusal says it."""

    def __init__(self, origin: str, folder: str):
        """folder: the file's own; media paths start there and stay inside."""
        self.origin, self.folder = origin, folder or "."

    def media_path(self, source: str, where: str) -> str:
        """The path of a medium, checked to exist inside the manifest's folder, links followed."""
        try:
            os.fsencode(source)
        except UnicodeEncodeError:
            raise self.bad(f"{where} {ascii(source)} is no file name (half a character): correct it") from None
        if "://" in source or source.startswith("data:"):
            raise self.bad(
                f'{where} "{source[:60]}" is an address: save the medium beside the manifest and name the file'
            )
        if os.path.isabs(source):
            raise self.bad(f'{where} "{source}" is absolute: give it relative to the manifest\'s folder {self.folder}')
        if "\0" in source:
            raise self.bad(f"{where} {source!r} holds a NUL character: name the file as it is on disk")
        path = os.path.join(self.folder, source)
        root = os.path.realpath(self.folder)
        if os.path.commonpath([os.path.realpath(path), root]) != root:
            raise self.bad(f'{where} "{source}" leads out of the manifest\'s folder {self.folder}: put the file inside')
        if not os.path.isfile(path):
            raise self.bad(f'{where} "{source}" is not a file in {self.folder}: correct the name or add the file')
        return path

    def choice(self, record: dict, key: str, allowed: tuple[str, ...], where: str) -> Any:
        value = self.field(record, key, str, where)
        if value not in allowed:
            near = difflib.get_close_matches(value, allowed, 1)
            remedy = f'did you mean "{near[0]}"?' if near else f"one of {', '.join(allowed)} is expected"
            raise self.bad(f'{_join(where, key)} is "{value}": {remedy}')
        return value

    def field(self, record: dict, key: str, kinds: type | tuple[type, ...], where: str) -> Any:
        if key not in record:
            raise self.bad(f'{where or "the line"} has no "{key}": add it')
        self.expect(record[key], kinds, _join(where, key))
        return record[key]

    def expect(self, value: Any, kinds: type | tuple[type, ...], where: str) -> None:
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        if type(value) not in kinds:  # not isinstance: true is no number
            found = "null" if value is None else _KINDS[type(value)]
            wanted = " or ".join(dict.fromkeys(_KINDS[kind] for kind in kinds))
            raise self.bad(f"{where} is {found}: {wanted} is expected")

    def refuse_unknown(self, record: dict, known: tuple[str, ...] | list[str], where: str) -> None:
        for key in record:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                remedy = f'did you mean "{near[0]}"?' if near else f"remove it; known here: {', '.join(known)}"
                raise self.bad(f'unknown key "{_join(where, key)}": {remedy}')

    def bad(self, text: str) -> BadLine:
        return BadLine(f"{self.origin}: {text}")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
