"""The YAML that configurations are written in: a strict dialect, read and written by the same rules.

It differs from PyYAML's SafeLoader where that surprises: `1e-4` is a number (PyYAML reads text), `010` is ten, only
`true` and `false` are booleans (so `no` and `off` are text), dates are text, a key may stand once in a mapping, and
tags and aliases are refused (a few lines of aliases can unfold into gigabytes). An exported model runs without PyYAML,
so `yaml_dialect` is imported where a text is read.
"""

from pathlib import Path
from typing import Any

from ernie5.errors import UserError

MAX_BYTES = 1 << 20  # a configuration is a few hundred lines; anything longer is another file named by mistake


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping that a file holds. Every way a file can be unfit is a UserError naming the file and the line."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such configuration file") from None
    except OSError as error:
        raise UserError(f"{path}: the configuration cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{path}: larger than {MAX_BYTES} bytes, which no configuration is: name a YAML file")
    from ernie5.config.yaml_dialect import NotYaml, parse

    try:
        tree = parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}: name a YAML file") from None
    except NotYaml as error:
        raise UserError(f"{path}: {error}") from None
    if tree is None:
        raise UserError(f"{path}: the file is empty: it needs at least one section, such as `model:`")
    if not isinstance(tree, dict):
        raise UserError(f"{path}: the file holds {kind_of(tree)}, but sections such as `model:` are expected")
    return tree


def parse_value(text: str) -> Any:
    """The value of an override, by the same rules; `[a, b]` and `{a: 1}` work; nothing after the `=` is empty text."""
    if not text.strip():
        return ""
    from ernie5.config.yaml_dialect import NotYaml, parse

    try:
        return parse(text)
    except NotYaml as error:
        raise UserError(f"{text!r} is not a YAML value: {error}") from None


def to_text(tree: dict[str, Any]) -> str:
    """A tree of mappings, lists, tuples and scalars as YAML that `read_mapping` reads back equal."""
    from ernie5.config import yaml_dialect

    return yaml_dialect.to_text(tree)


def kind_of(value: Any) -> str:
    """What a value of a YAML file is, in a user's words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return f"the text {shown}" if isinstance(value, str) else f"the number {shown}"
