"""The folder of a vision tokenizer: `config.json` and `model.safetensors`; nothing is pickled."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ernie5.config.build import build
from ernie5.config.vision_tokenizer import VisionTokenizerConfig, check
from ernie5.errors import UserError

if TYPE_CHECKING:
    from paddle import nn

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
MODEL_TYPE = "ernie5_vision_tokenizer"
REMEDY = "name a folder that tools/tokenizer.py train vision wrote"


def is_tokenizer_folder(folder: Path | str) -> bool:
    """Whether a `config.json` of a vision tokenizer is there."""
    try:
        return _read_json(Path(folder) / CONFIG_FILE).get("model_type") == MODEL_TYPE
    except UserError:
        return False


def save(folder: Path | str, config: VisionTokenizerConfig, weights: Mapping[str, np.ndarray], digest: str) -> Path:
    """Writes both files aside, syncs and renames them, the configuration last; a reader checks its digest."""
    from safetensors.numpy import save as to_bytes

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"model_type": MODEL_TYPE, "digest": digest} | asdict(config)
    _replace(folder / WEIGHTS_FILE, to_bytes({name: np.ascontiguousarray(array) for name, array in weights.items()}))
    _replace(folder / CONFIG_FILE, (json.dumps(about, indent=2) + "\n").encode())
    return folder


def read_config(folder: Path | str) -> tuple[VisionTokenizerConfig, str]:
    """The settings in a folder's `config.json`, and the digest that its weights must have."""
    path = Path(folder) / CONFIG_FILE
    values = _read_json(path)
    if values.pop("model_type", None) != MODEL_TYPE:
        raise UserError(f"{path}: is not of an ernie5 vision tokenizer: {REMEDY}")
    digest = str(values.pop("digest", ""))
    config = build(VisionTokenizerConfig, values, lambda keys: str(path))
    check(config, str(path))
    return config, digest


def assign(layer: "nn.Layer", folder: Path | str) -> None:
    """Sets a layer's weights to those of the folder; UserError unless names and shapes are the same."""
    path = Path(folder) / WEIGHTS_FILE
    weights = read_weights(path)
    parameters = layer.state_dict()
    wrong = sorted(
        name
        for name in weights.keys() | parameters.keys()
        if name not in weights or name not in parameters or list(weights[name].shape) != parameters[name].shape
    )
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} weights do not fit its config.json, such as {wrong[0]}: restore the folder"
        )
    for name, parameter in parameters.items():
        parameter.set_value(weights[name])


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}): {REMEDY}") from None
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}): restore it or train again") from None


def _read_json(path: Path) -> dict:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): {REMEDY}") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}): restore it or train again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: is not of an ernie5 vision tokenizer: {REMEDY}")
    return values


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
