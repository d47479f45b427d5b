"""The folder of a network that is trained apart, such as a tokenizer: `config.json` and `model.safetensors`.

Nothing is pickled.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from ernie5.config.build import build
from ernie5.errors import UserError

if TYPE_CHECKING:
    from paddle import nn

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class NetworkFolder(Generic[Config]):
    """What folders of one kind of network have in common."""

    name: str  # as the user knows it, such as "audio tokenizer"
    model_type: str  # in `config.json`
    version: int  # of what the weights mean; raised whenever the architecture changes
    config_type: type[Config]
    check: Callable[[Config, str], None]  # raises UserError that names its second argument
    command: str  # that writes such a folder

    def save(self, folder: Path | str, config: Config, network: "nn.Layer") -> Path:
        """Writes both files aside, syncs and renames them, the configuration last; `load` checks its digest."""
        from safetensors.numpy import save as to_bytes

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in network.state_dict().items()}
        about = {"model_type": self.model_type, "format": self.version, "digest": digest(config, network)}
        _replace(folder / WEIGHTS_FILE, to_bytes(weights))
        _replace(folder / CONFIG_FILE, (json.dumps(about | asdict(config), indent=2) + "\n").encode())
        return folder

    def is_one(self, folder: Path | str) -> bool:
        """Whether a `config.json` of this kind is there. UserError if there is one that is not JSON."""
        path = Path(folder) / CONFIG_FILE
        return path.is_file() and self._read_json(path).get("model_type") == self.model_type

    def read_config(self, folder: Path | str) -> Config:
        """The settings in a folder's `config.json`, checked."""
        return self._read_config(Path(folder) / CONFIG_FILE)[0]

    def load(
        self,
        folder: Path | str,
        make: Callable[[Config], "nn.Layer"],
        shapes: Callable[[Config], Mapping[str, Sequence[int]]],
    ) -> "nn.Layer":
        """The network that `save` wrote, in evaluation mode. UserError: not such a folder, or its files do not agree.

        `shapes` names weights, together with each setting in a shape, that the file must have before a network of such
        sizes is made; afterwards all are compared.
        """
        config, expected_digest = self._read_config(Path(folder) / CONFIG_FILE)
        path = Path(folder) / WEIGHTS_FILE
        found = self._read_header(path)
        few = {name: list(shape) for name, shape in shapes(config).items()}
        _refuse([name for name, shape in few.items() if found.get(name) != ("F32", shape)], path)
        network = make(config)
        self._assign(network, found, path)
        if digest(config, network) != expected_digest:
            raise UserError(f"{folder}: its weights are not those that its config.json was written for: restore them")
        network.eval()
        return network

    def _read_config(self, path: Path) -> tuple[Config, str]:
        """The settings, and the digest that the weights must have."""
        values = self._read_json(path)
        if values.pop("model_type", None) != self.model_type:
            raise UserError(f"{path}: is not of an ernie5 {self.name}: {self._remedy}")
        version = values.pop("format", None)
        if version != self.version:
            found = "none" if version is None else version
            raise UserError(
                f"{path}: was written by another version (format {found}, not {self.version}): train it again"
            )
        expected_digest = str(values.pop("digest", ""))
        config = build(self.config_type, values, lambda keys: str(path))
        self.check(config, str(path))
        return config, expected_digest

    def _assign(self, network: "nn.Layer", found: Mapping[str, tuple[str, list[int]]], path: Path) -> None:
        """Sets all weights; UserError unless names, shapes and type are the same."""
        from safetensors.numpy import load_file

        state = network.state_dict()
        expected = {name: ("F32", tensor.shape) for name, tensor in state.items()}
        _refuse([name for name in {**found, **expected} if found.get(name) != expected.get(name)], path)
        weights = load_file(path)
        for name, tensor in state.items():
            tensor.set_value(weights[name])

    def _read_header(self, path: Path) -> dict[str, tuple[str, list[int]]]:
        """Type and shape of each array of a safetensors file, none of which is read."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}
                return {name: (array.get_dtype(), array.get_shape()) for name, array in slices.items()}
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error}): {self._remedy}") from None
        except SafetensorError as error:
            raise UserError(f"{path}: not a whole safetensors file ({error}): restore it or train again") from None

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}): {self._remedy}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not JSON ({error}): restore it or train again") from None
        if not isinstance(values, dict):
            raise UserError(f"{path}: is not of an ernie5 {self.name}: {self._remedy}")
        return values

    @property
    def _remedy(self) -> str:
        return f"name a folder that {self.command} wrote"


def digest(config: Any, network: "nn.Layer") -> str:
    """sha256 of what decides the codes: the configuration and the weights, in the order of their names."""
    total = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for name, tensor in sorted(network.state_dict().items()):
        array = np.ascontiguousarray(tensor.numpy())
        total.update(f"{name} {array.shape} {array.dtype}".encode())
        total.update(array)
    return total.hexdigest()


def _refuse(wrong: Sequence[str], path: Path) -> None:
    """UserError if there are weights that do not fit."""
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} weights do not fit its config.json, such as {min(wrong)}: restore the folder"
        )


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
