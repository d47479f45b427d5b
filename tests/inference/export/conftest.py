"""Tiny text models as folders, and exported."""

import dataclasses
from pathlib import Path

import numpy as np
import paddle
import pytest

from ernie5.inference.export.export_folder import export_folder
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.folder import save_pretrained
from tests.inference.export.kinds import KINDS
from tests.vision_models import text_tokenizer


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory):
    """Writes a model folder of some kind, with weights so large that every input shows in every logit."""

    def make(config, kind: str = "mixture", **changes) -> Path:
        folder = tmp_path_factory.mktemp("model")
        text_tokenizer().save_pretrained(folder / "tokenizer")
        moe = dataclasses.replace(config.moe, **KINDS[kind])
        config = dataclasses.replace(
            config, moe=moe, vocab_size=text_tokenizer().vocab_size, intermediate_size=24, **changes
        )
        paddle.seed(1)
        model, rng = Ernie5ForCausalLM(config), np.random.default_rng(7)
        for name, tensor in model.state_dict().items():
            if "norm" not in name and "expert_bias" not in name:
                tensor.set_value(rng.normal(0, 0.2, tensor.shape).astype(np.float32))
        return save_pretrained(model, folder / "model", folder / "tokenizer")

    return make


@pytest.fixture(scope="session")
def export(tmp_path_factory):
    """Exports a model folder."""
    from ernie5.model.folder import from_pretrained

    def make(folder: Path, ops: str = "none", **options) -> Path:
        output = tmp_path_factory.mktemp("exported") / "folder"
        export_folder(from_pretrained(folder), folder, output, ops, **options)
        return output

    return make


@pytest.fixture(scope="session")
def whole(tiny_model_config, make_folder, export) -> Path:
    """An exported folder; copy it before it is changed."""
    return export(make_folder(tiny_model_config))
