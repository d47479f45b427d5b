"""What a run begins with where `train.init_from` names a model folder: its weights, and its text tokenizer."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ernie5.config.schema import ModelConfig
from ernie5.errors import UserError
from ernie5.model.folder import MODEL_YAML, load_weights, read_config, tokenizers_in
from ernie5.model.weights import assign
from ernie5.parallel.parallelize import ParallelModel
from ernie5.parallel.pieces import own_pieces

logger = logging.getLogger(__name__)

_NO_MATTER = {"name", "initializer_range"}  # of a model whose weights are there


def check_begin(folder: str, config: ModelConfig) -> None:
    """UserError unless `config` is the model of the folder, setting by setting."""
    theirs, ours = _flat(asdict(read_config(folder))), _flat(asdict(config))
    keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key) and key not in _NO_MATTER]
    if keys:
        said = "; ".join(f"model.{key} is {ours.get(key)}, there {theirs.get(key)}" for key in keys[:3])
        more = f"; and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise UserError(
            f"train.init_from: {folder} is another model ({said}{more}); include {Path(folder) / MODEL_YAML} in the "
            "run file in the place of the model's, or leave init_from out"
        )


def begin_with(folder: str, parallel: ParallelModel) -> None:
    """Gives what this process has of an undrawn model its values, read from the folder's files as they are needed."""
    tensors = load_weights(folder, parallel.model.config)
    if parallel.mesh.is_divided:
        held = parallel.model.state_dict().keys()
        tensors = own_pieces({name: tensors[name] for name in held}, parallel.cuts)
    assign(parallel.model.state_dict().items(), tensors, folder, cast=True)


def tokenizer_of(folder: str) -> Path | None:
    """Where the folder's text tokenizer lies; None, with a warning, if it has none of this project."""
    found = tokenizers_in(folder).get("tokenizer_dir")
    if found is None:
        logger.warning(
            "%s has no text tokenizer of ernie5: one is trained on the training split, and its ids are not those that "
            "the weights have learned; name the tokenizer they were trained with in tokenizer.path if there is one",
            folder,
        )
    return found


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys -> values that are no sections."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
