"""The YAML that configurations are written in: a strict dialect, read and written by the same rules.

It differs from PyYAML's SafeLoader where that surprises: `1e-4` is a number (PyYAML reads text), `010` is ten, only
`true` and `false` are booleans (so `no` and `off` are text), dates are text, a key may stand once in a mapping, and
tags and aliases are refused (a few lines of aliases can unfold into gigabytes).
"""

import re
from pathlib import Path
from typing import Any

import yaml

from ernie5.errors import UserError

MAX_BYTES = 1 << 20  # a configuration is a few hundred lines; anything longer is another file named by mistake

INT = re.compile(r"^[-+]?[0-9][0-9_]*$")
FLOAT = re.compile(
    r"^[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|nan))$"
)
RESOLVERS = (
    ("tag:yaml.org,2002:null", re.compile(r"^(?:null|~|)$"), ["n", "~", ""]),
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), ["t", "f"]),
    ("tag:yaml.org,2002:int", INT, list("-+0123456789")),
    ("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789")),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list] = {}

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, "tags and aliases are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key_node.value in lines:
                problem = f"the key {key_node.value!r} stands twice, first at line {lines[key_node.value]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            lines[key_node.value] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that this dialect or plain YAML 1.1 would read as something else."""


for _tag, _pattern, _first in RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)
# SafeLoader reads a leading zero as octal and fails on 09.
_Loader.add_constructor(
    "tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node).replace("_", ""))
)


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
    try:
        tree = _parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}: name a YAML file") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {_explain(error)}") from None
    if tree is None:
        raise UserError(f"{path}: the file is empty: it needs at least one section, such as `model:`")
    if not isinstance(tree, dict):
        raise UserError(f"{path}: the file holds {kind_of(tree)}, but sections such as `model:` are expected")
    return tree


def parse_value(text: str) -> Any:
    """The value of an override, by the same rules; `[a, b]` and `{a: 1}` work; nothing after the `=` is empty text."""
    if not text.strip():
        return ""
    try:
        return _parse(text)
    except yaml.YAMLError as error:
        raise UserError(f"{text!r} is not a YAML value: {_explain(error)}") from None


def to_text(tree: dict[str, Any]) -> str:
    """A tree of mappings, lists, tuples and scalars as YAML that `read_mapping` reads back equal."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


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


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise yaml.YAMLError(f"unreadable number: {error}") from None


def _explain(error: yaml.YAMLError) -> str:
    """`line 3, column 7: mapping values are not allowed here`."""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + " ".join(problem.split())
