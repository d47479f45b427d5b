"""The folder of a refiner: `config.json` and `model.safetensors`; nothing is pickled."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from paddle import nn

from ernie5.config.build import build
from ernie5.config.refiner import RefinerConfig, check
from ernie5.errors import UserError

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
MODEL_TYPE = "ernie5_refiner"
REMEDY = "name the model folder of a run of tools/refiner.py train"


def save(folder: Path | str, config: RefinerConfig, weights: Mapping[str, np.ndarray]) -> Path:
    """Writes both files in a folder aside, syncs them and renames it. Raises UserError if the folder exists."""
    from safetensors.numpy import save as to_bytes

    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder}: exists already, and no refiner is written over: name a new folder")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    aside.mkdir(parents=True)
    try:
        _write(aside / WEIGHTS_FILE, to_bytes({name: np.ascontiguousarray(array) for name, array in weights.items()}))
        about = {"model_type": MODEL_TYPE} | asdict(config)
        _write(aside / CONFIG_FILE, (json.dumps(about, indent=2) + "\n").encode())
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def read_config(folder: Path | str) -> RefinerConfig:
    """The settings in a folder's `config.json`."""
    path = Path(folder) / CONFIG_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): {REMEDY}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}): restore it or train again") from None
    if not isinstance(values, dict) or values.pop("model_type", None) != MODEL_TYPE:
        raise UserError(f"{path}: is not of an ernie5 refiner: {REMEDY}")
    config = build(RefinerConfig, values, lambda keys: str(path))
    check(config, str(path))
    if config.detail_std == 0:
        raise UserError(f"{path}: detail_std is 0, which training replaces: restore it or train again")
    return config


def check_header(folder: Path | str, config: RefinerConfig) -> None:
    """UserError unless the weights' sizes are those of the settings, before a network of such sizes is built.

    Looks at what has each setting in its shape; `assign` compares all of them.
    """
    path, size = Path(folder) / WEIGHTS_FILE, config.embedding_size
    expected = {
        f"network.down.{level}.blocks.{i}.conv1.weight": ("F32", [width, width, 3, 3])
        for level, width in enumerate(config.channels)
        for i in range(config.blocks_per_level)
    } | {"network.embed.0.weight": ("F32", [size, 2 * size])}
    found = _read_header(path)
    _refuse([name for name, kind in expected.items() if found.get(name) != kind], path)


def assign(layer: nn.Layer, folder: Path | str) -> None:
    """Sets a layer's weights to those of the folder; UserError unless names, shapes and type agree and all are finite.

    Sizes are checked before anything is read.
    """
    from safetensors.numpy import load_file

    path, parameters = Path(folder) / WEIGHTS_FILE, layer.state_dict()
    found = _read_header(path)
    expected = {name: ("F32", list(parameter.shape)) for name, parameter in parameters.items()}
    _refuse([name for name in found | expected if found.get(name) != expected.get(name)], path)
    weights = load_file(path)
    broken = sorted(name for name, array in weights.items() if not np.isfinite(array).all())
    if broken:
        raise UserError(f"{path}: {len(broken)} weights are not finite, such as {broken[0]}: restore it or train again")
    for name, parameter in parameters.items():
        parameter.set_value(weights[name])


def _read_header(path: Path) -> dict[str, tuple[str, list[int]]]:
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
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} weights do not fit its config.json, such as {min(wrong)}: restore the folder"
        )


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
