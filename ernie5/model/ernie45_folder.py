"""Folders of ERNIE 4.5's open text models into model folders of this project, and back.

Tensors go from the mapped files of one folder into the files of the other, one at a time and thread. Only safetensors
are read: nothing is unpickled, and no code of a checkpoint is run.
"""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

from ernie5.config.schema import ModelConfig
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.ernie45_config import config_from_ernie45, config_to_ernie45, without_meaning
from ernie5.model.ernie45_names import Array, from_ernie45, published_names, to_ernie45
from ernie5.model.ernie45_paddle import PREFIX, from_paddle, to_paddle
from ernie5.model.folder import (
    CONFIG_FILE,
    DTYPES,
    copy_tokenizer,
    load_weights,
    read_config,
    read_settings,
    require_new,
    save_folder,
    tokenizers_in,
)
from ernie5.model.safetensors_file import dtype_tag
from ernie5.model.undrawn import undrawn
from ernie5.model.weights import SHARD_BYTES, check_fit, load_tensors, save_tensors

LAYOUTS = ("transformers", "paddle")
KEPT = "ernie45"  # in a model folder: what a checkpoint brings that this project cannot use, for the way back
_KEPT_FILES = (
    *("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "generation_config.json", CONFIG_FILE),
)


class Checkpoint(NamedTuple):
    """A folder of ERNIE 4.5, read: nothing of the weights is in memory yet."""

    config: ModelConfig
    tensors: dict[str, Array]  # by the names of our model
    left_out: list[str]  # their tensors that this backbone has no place for
    layout: str


def model_type(folder: Path | str) -> str:
    """Of a folder's `config.json`; UserError where there is none."""
    return str(read_settings(folder).get("model_type"))


def read_checkpoint(folder: Path | str, name: str) -> Checkpoint:
    """Settings and tensors of a folder. Raises UserError naming a setting or a tensor that does not fit."""
    folder = Path(folder)
    config = config_from_ernie45(read_settings(folder), name, str(folder / CONFIG_FILE))
    tensors = load_tensors(folder)
    layout = "paddle" if any(tensor.startswith(PREFIX) for tensor in tensors) else "transformers"
    published = from_paddle(tensors, config) if layout == "paddle" else tensors
    ours = from_ernie45(published, config)
    check_fit(undrawn(lambda: Ernie5ForCausalLM(config)).state_dict(), ours, folder, cast=True)
    left_out = sorted(tensor for tensor in published if tensor.startswith("model.mtp_"))
    return Checkpoint(config, ours, left_out, layout)


def save_checkpoint(checkpoint: Checkpoint, source: Path | str, target: Path | str) -> None:
    """Writes a new model folder; beside it in `KEPT` what the source has for others: tokenizer, settings."""
    save_folder(checkpoint.config, checkpoint.tensors, require_new(target))
    kept = Path(target) / KEPT
    for name in _KEPT_FILES:
        if (Path(source) / name).is_file():
            kept.mkdir(exist_ok=True)
            shutil.copyfile(Path(source) / name, kept / name)


def save_as_ernie45(
    source: Path | str, target: Path | str, layout: str = "transformers", max_shard_bytes: int = SHARD_BYTES
) -> ModelConfig:
    """A model folder of ours -> a new folder as ERNIE 4.5's are published, in one of LAYOUTS; returns its settings.

    Weights keep their dtype. Raises UserError for a model that ERNIE 4.5's text models have no place for.
    """
    source, config = Path(source), read_config(source)
    settings = config_to_ernie45(config)
    weights = load_weights(source, config)
    tensors = published_names(to_ernie45(weights, config))
    if layout == "paddle":
        tensors = to_paddle(tensors, config)
    dtype = DTYPES[dtype_tag(weights["text.embed_tokens.weight"])]
    kept = source / KEPT
    before = without_meaning(read_settings(kept)) if (kept / CONFIG_FILE).exists() else {}
    target = require_new(target)
    save_tensors(tensors, target, max_shard_bytes=max_shard_bytes)
    for name in _KEPT_FILES:
        if (kept / name).is_file() and name != CONFIG_FILE:
            shutil.copyfile(kept / name, target / name)
    if own := tokenizers_in(source).get("tokenizer_dir"):
        before |= copy_tokenizer(own, target)
    settings |= before | {"torch_dtype": dtype}
    (target / CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return config
