"""From untyped trees to the frozen dataclasses of `schema.py`: nothing unknown, nothing converted but int to float."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ernie5.config.yaml_text import kind_of
from ernie5.errors import UserError

T = TypeVar("T")
Keys = tuple[str | int, ...]  # of a value in the tree: ("stages", 0, "num_tokens")
Origin = Callable[[Keys], str]  # the file or option that a value came from

SCALAR_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def build(cls: type[T], tree: Any, origin: Origin, path: Keys = ()) -> T:
    """An instance of the dataclass `cls` from a mapping; UserError names the origin, the dotted key and the remedy."""
    if not isinstance(tree, dict):
        raise _wrong(origin, path, "a mapping of settings", tree)
    hints = field_types(cls)
    for key in tree:
        if key not in hints:
            raise UserError(f"{origin((*path, key))}: {unknown_key((*path, key), hints)}")
    missing = [field.name for field in dataclasses.fields(cls) if field.name not in tree and not _has_default(field)]
    if missing:
        names = ", ".join(dotted((*path, name)) for name in missing)
        raise UserError(f"{origin(path)}: {names} {'is' if len(missing) == 1 else 'are'} missing and must be set")
    present = {key: value for key, value in tree.items() if not _absent(cls, key, value)}
    return cls(**{key: _value(hints[key], value, origin, (*path, key)) for key, value in present.items()})


@cache
def field_types(cls: type) -> dict[str, Any]:
    """Name and type of each field, in the order of the schema; X for a section that may be left out, `X | None`."""
    hints = get_type_hints(cls)
    return {field.name: _without_none(hints[field.name]) for field in dataclasses.fields(cls)}


def _without_none(hint: Any) -> Any:
    return next(arg for arg in get_args(hint) if arg is not NoneType) if isinstance(hint, UnionType) else hint


def _absent(cls: type, name: str, value: Any) -> bool:
    """Whether this is a section that is left out."""
    return value is None and isinstance(get_type_hints(cls)[name], UnionType)


def item_type(hint: Any) -> Any:
    """X of `tuple[X, ...]`, and None of every other type."""
    return get_args(hint)[0] if get_origin(hint) is tuple else None


def unknown_key(path: Keys, known: Iterable[str]) -> str:
    """`model.hiden_size is not a known setting: did you mean model.hidden_size?`"""
    known = list(known)
    message = f"{dotted(path)} is not a known setting"
    near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
    if near:
        return f"{message}: did you mean {dotted((*path[:-1], near[0]))}?"
    return f"{message}: known here are {', '.join(known)}"


def dotted(path: Keys) -> str:
    """("stages", 0, "name") -> `stages.0.name`."""
    return ".".join(str(part) for part in path)


def _value(hint: Any, value: Any, origin: Origin, path: Keys) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(hint, value, origin, path)
    if get_origin(hint) is Literal:
        return _choice(get_args(hint), value, origin, path)
    item = item_type(hint)
    if item is not None:
        if not isinstance(value, (list, tuple)):
            raise _wrong(origin, path, "a list", value)
        return tuple(_value(item, entry, origin, (*path, i)) for i, entry in enumerate(value))
    return _scalar(hint, value, origin, path)


def _choice(choices: tuple[str, ...], value: Any, origin: Origin, path: Keys) -> str:
    if not isinstance(value, str) or value not in choices:
        raise _wrong(origin, path, f"one of {', '.join(choices)}", value)
    return value


def _scalar(hint: type, value: Any, origin: Origin, path: Keys) -> Any:
    if hint is float and type(value) is int:
        value = _to_float(value)
    if type(value) is not hint:
        remedy = ' (put it in quotes: "...")' if hint is str and isinstance(value, (int, float)) else ""
        raise _wrong(origin, path, SCALAR_NAMES[hint] + remedy, value)
    if hint is float and not math.isfinite(value):
        raise _wrong(origin, path, "a finite number", value)
    return value


def _to_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _wrong(origin: Origin, path: Keys, expected: str, found: Any) -> UserError:
    where = f"{origin(path)}: {dotted(path)}" if path else origin(path)
    return UserError(f"{where} must be {expected}, but is {kind_of(found)}")


def _has_default(field: dataclasses.Field) -> bool:
    return not (field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING)
