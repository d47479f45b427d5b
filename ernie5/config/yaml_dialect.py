"""How YAML is read and written in the dialect of `yaml_text`. PyYAML is imported with this module alone."""

import re
from typing import Any

import yaml


class NotYaml(ValueError):
    """What is wrong with the text, and where."""


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


def parse(text: str) -> Any:
    """The tree of a text. Raises NotYaml."""
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise NotYaml("nested too deeply") from None
    except yaml.YAMLError as error:
        raise NotYaml(_explain(error)) from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise NotYaml(f"unreadable number: {error}") from None


def to_text(tree: dict[str, Any]) -> str:
    """A tree of mappings, lists, tuples and scalars as a text that `parse` reads back equal."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _explain(error: yaml.YAMLError) -> str:
    """`line 3, column 7: mapping values are not allowed here`."""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + " ".join(problem.split())
