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
FORMAT = 2  # of what the weights mean; raised whenever the architecture changes. 1 (not written down) had norms
REMEDY = "name a folder that tools/tokenizer.py train vision wrote"


def is_tokenizer_folder(folder: Path | str) -> bool:
    """Whether a `config.json` of a vision tokenizer is there. UserError if there is one that is not JSON."""
    path = Path(folder) / CONFIG_FILE
    return path.is_file() and _read_json(path).get("model_type") == MODEL_TYPE


def save(folder: Path | str, config: VisionTokenizerConfig, weights: Mapping[str, np.ndarray], digest: str) -> Path:
    """Writes both files aside, syncs and renames them, the configuration last; a reader checks its digest."""
    from safetensors.numpy import save as to_bytes

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"model_type": MODEL_TYPE, "format": FORMAT, "digest": digest} | asdict(config)
    _replace(folder / WEIGHTS_FILE, to_bytes({name: np.ascontiguousarray(array) for name, array in weights.items()}))
    _replace(folder / CONFIG_FILE, (json.dumps(about, indent=2) + "\n").encode())
    return folder


def read_config(folder: Path | str) -> tuple[VisionTokenizerConfig, str]:
    """The settings in a folder's `config.json`, and the digest that its weights must have."""
    path = Path(folder) / CONFIG_FILE
    values = _read_json(path)
    if values.pop("model_type", None) != MODEL_TYPE:
        raise UserError(f"{path}: is not of an ernie5 vision tokenizer: {REMEDY}")
    version = values.pop("format", FORMAT)  # without one: `check_header` tells whether the weights fit
    if version != FORMAT:
        age = "an earlier" if isinstance(version, int) and version < FORMAT else "another"
        raise UserError(f"{path}: was written by {age} version (format {version}, not {FORMAT}): train it again")
    digest = str(values.pop("digest", ""))
    config = build(VisionTokenizerConfig, values, lambda keys: str(path))
    check(config, str(path))
    return config, digest


def check_header(folder: Path | str, config: VisionTokenizerConfig) -> None:
    """UserError unless the weights' sizes are those of the settings, before a network of such sizes is built.

    Looks at what has each setting in its shape; `assign` compares all of them.
    """
    path, encoder = Path(folder) / WEIGHTS_FILE, config.encoder
    expected = {
        f"encoder.blocks.{level}.{i}.conv1.weight": [width, width, 3, 3, 3]
        for level, width in enumerate(encoder.channels)
        for i in range(encoder.num_res_blocks)
    } | {"to_bits.weight": [encoder.channels[-1], config.bits]}
    found = read_header(path)
    wrong = sorted(name for name, shape in expected.items() if found.get(name) != ("F32", shape))
    _refuse(wrong, path)


def assign(layer: "nn.Layer", folder: Path | str) -> None:
    """Sets a layer's weights to those of the folder; UserError unless names, shapes and type are the same."""
    from safetensors.numpy import load_file

    path, parameters = Path(folder) / WEIGHTS_FILE, layer.state_dict()
    found = read_header(path)
    expected = {name: ("F32", parameter.shape) for name, parameter in parameters.items()}
    _refuse(sorted(name for name in found | expected if found.get(name) != expected.get(name)), path)
    weights = load_file(path)
    for name, parameter in parameters.items():
        parameter.set_value(weights[name])


def read_header(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Type and shape of each array of a safetensors file, none of which is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            return {name: (array.get_dtype(), array.get_shape()) for name, array in slices.items()}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}): {REMEDY}") from None
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}): restore it or train again") from None


def _refuse(wrong: list[str], path: Path) -> None:
    """UserError if there are weights that do not fit."""
    if not wrong:
        return
    about = _read_json(path.with_name(CONFIG_FILE))
    if "format" not in about:
        raise UserError(f"{path.parent}: was written by an earlier version (it names no format): train it again")
    raise UserError(f"{path}: {len(wrong)} weights do not fit its config.json, such as {wrong[0]}: restore the folder")


def _read_json(path: Path) -> dict:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): {REMEDY}") from None
    except (ValueError, RecursionError) as error:
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
