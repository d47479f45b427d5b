"""YAML files, their includes and `-o` overrides -> the typed, checked configuration; and back.

include: [../model/tiny.yaml, ../stage/tiny.yaml]     # relative to this file, one level deep
train: {output_dir: runs/tiny}                         # what the file says wins over its includes
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from ernie5.config import rules
from ernie5.config.build import Keys, build, dotted, field_types, item_type, unknown_key
from ernie5.config.schema import Config, ModelConfig
from ernie5.config.yaml_text import kind_of, parse_value, read_mapping, to_text
from ernie5.errors import UserError

OPTION = "-o"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class _Tree:
    """The merged tree of a file with its includes and overrides, and where each leaf of it came from."""

    path: str
    values: dict[str, Any]
    origins: dict[Keys, str]

    def origin(self, keys: Keys) -> str:
        """The file or option that set this value, or the section around it, or else the file that was named."""
        for end in range(len(keys), 0, -1):
            if keys[:end] in self.origins:
                return self.origins[keys[:end]]
        inside = {source for leaf, source in self.origins.items() if leaf[: len(keys)] == keys}
        return inside.pop() if len(inside) == 1 else self.path


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The run that a file describes, with `key=value` overrides, after every rule of `rules.py` held.

    Raises UserError: unreadable file, unknown key, wrong type, missing setting, settings that do not fit together.
    """
    config = load_as(Config, path, overrides)
    rules.check(config, source=str(path))
    return config


def load_as(cls: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """A file as an instance of any dataclass of settings, with overrides; rules over several settings are not checked.

    Raises UserError as `load_config`.
    """
    tree = _load_tree(path, overrides, cls)
    return build(cls, tree.values, tree.origin)


def load_model_config(path: str | Path, overrides: Sequence[str] = ()) -> ModelConfig:
    """The `model:` section alone, of a model file or of a run file, whose other sections are not looked at."""
    tree = _load_tree(path, overrides)
    if "model" not in tree.values:
        raise UserError(f"{tree.path}: there is no `model:` section: name a model file or a run file")
    model = build(ModelConfig, tree.values["model"], tree.origin, ("model",))
    rules.check_model(model, source=tree.path)
    return model


def load_config_or_model(path: str | Path, overrides: Sequence[str] = ()) -> Config | ModelConfig:
    """A run, or a bare model when the file and the overrides hold nothing but `model`."""
    if set(_load_tree(path, overrides).values) == {"model"}:
        return load_model_config(path, overrides)
    return load_config(path, overrides)


def model_from_dict(values: dict[str, Any], source: str = "config.json") -> ModelConfig:
    """A ModelConfig from a mapping of its fields, as strict as the YAML; `source` is named in errors."""
    model = build(ModelConfig, values, lambda keys: source)
    rules.check_model(model, source=source)
    return model


def dump(config: Config | ModelConfig) -> str:
    """YAML of the whole tree, defaults included, that loads back equal (a bare model under `model:`)."""
    tree = dataclasses.asdict(config)
    return to_text(tree if isinstance(config, Config) else {"model": tree})


def _load_tree(path: str | Path, overrides: Sequence[str], root: type = Config) -> _Tree:
    path = Path(path)
    own = read_mapping(path)
    values, origins = _read_includes(path, own.pop("include", []))
    _merge(values, own)
    own_leaves = _leaves(own)
    for keys in [keys for keys in origins if any(leaf[: len(keys)] == keys for leaf in own_leaves)]:
        del origins[keys]
    origins.update(dict.fromkeys(own_leaves, str(path)))
    tree = _Tree(str(path), values, origins)
    for override in overrides:
        _apply_override(tree, override, root)
    return tree


def _read_includes(path: Path, names: Any) -> tuple[dict[str, Any], dict[Keys, str]]:
    """The merged included files and the file of each leaf; two files that set the same one are an error."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: include must be a list of files relative to this one, but is {kind_of(names)}")
    values: dict[str, Any] = {}
    origins: dict[Keys, str] = {}
    for name in names:
        file = path.parent / name
        if not file.exists():
            raise UserError(f"{path}: include names {name}, but there is no file {file}")
        included = read_mapping(file)
        if "include" in included:
            raise UserError(f"{file}: an included file may not include others: list them in {path}")
        for keys in _leaves(included):
            clash = next((other for other in origins if _overlap(other, keys)), None)
            if clash is not None:
                raise UserError(f"{path}: both {origins[clash]} and {file} set {dotted(keys)}: include one of them")
        origins.update(dict.fromkeys(_leaves(included), str(file)))
        _merge(values, included)
    return values, origins


def _overlap(one: Keys, other: Keys) -> bool:
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def _leaves(tree: dict[str, Any], prefix: Keys = ()) -> list[Keys]:
    """Paths of what is not a mapping (a list is one leaf) and of empty mappings."""
    leaves: list[Keys] = []
    for key, value in tree.items():
        deeper = _leaves(value, (*prefix, key)) if isinstance(value, dict) else []
        leaves += deeper or [(*prefix, key)]
    return leaves


def _merge(base: dict[str, Any], over: dict[str, Any]) -> None:
    """Writes `over` into `base`: mappings key by key, everything else whole."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _apply_override(tree: _Tree, override: str, root: type) -> None:
    """Sets one `a.b.0.c=value`; the schema says which keys exist, so that one left at its default is known too."""
    name, equals, text = override.partition("=")
    source = f"{OPTION} {override}"
    if not equals or not name.strip():
        raise UserError(f"{source}: write an override as key=value, such as train.max_steps=10")
    hint: Any = root
    node: Any = tree.values
    keys: Keys = ()
    parts = name.strip().split(".")
    for i, part in enumerate(parts):
        key, hint = _step(hint, node, (*keys, part), source)
        keys = (*keys, key)
        if i == len(parts) - 1:
            node[key] = _override_value(text, hint, source)
        elif isinstance(node, dict):
            node = node.setdefault(key, [] if item_type(hint) is not None else {})
        else:
            node = node[key]
    # What stood at or below this key is replaced, wherever it came from.
    for old in [old for old in tree.origins if old[: len(keys)] == keys]:
        del tree.origins[old]
    tree.origins[keys] = source


def _step(hint: Any, node: Any, keys: Keys, source: str) -> tuple[str | int, Any]:
    """One part of a dotted key: the key or list index to go through, and the type of what is there."""
    item = item_type(hint)
    if item is not None:
        entries = len(node) if isinstance(node, list) else 0
        if not str(keys[-1]).isascii() or not str(keys[-1]).isdigit() or int(keys[-1]) >= entries:
            held = f"it has {entries}, counted from 0" if entries else "it has none"
            raise UserError(f"{source}: {dotted(keys)} names no entry of {dotted(keys[:-1])}: {held}")
        return int(keys[-1]), item
    if not dataclasses.is_dataclass(hint) or not isinstance(node, dict):
        raise UserError(f"{source}: {dotted(keys[:-1])} holds a single value, so {dotted(keys)} does not exist")
    known = field_types(hint)
    if keys[-1] not in known:
        raise UserError(f"{source}: {unknown_key(keys, known)}")
    return keys[-1], known[keys[-1]]


def _override_value(text: str, hint: Any, source: str) -> Any:
    """The YAML value; where the setting is a text, what is not one by YAML's rules is taken as it was typed."""
    try:
        value = parse_value(text)
    except UserError as error:
        if hint is str:
            return text
        raise UserError(f"{source}: {error}") from None
    return text if hint is str and not isinstance(value, str) else value
