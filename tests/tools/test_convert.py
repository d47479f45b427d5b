"""tools/convert.py on stored checkpoints, and an elastic run that begins with one."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml

from ernie5.config.load import load_config
from ernie5.config.schema import Config
from ernie5.data.loader import Loader
from ernie5.data.split import open_splits
from ernie5.elastic.sampler import draw_subnet
from ernie5.inference.show import show
from ernie5.modality.batch import make_batch
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.ernie45_config import config_from_ernie45
from ernie5.model.ernie45_names import from_ernie45
from ernie5.model.folder import MODEL_YAML, load_weights, read_config
from ernie5.model.safetensors_file import host_array
from ernie5.model.subnet import full_subnet
from ernie5.model.weights import load_tensors
from ernie5.tokenizers.text import TextTokenizer
from ernie5.train.run import run
from tests.runs import ROOT, losses, records

SOURCE = ROOT / "tests/golden/ernie45_checkpoint/moe"


def convert(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / "convert.py"), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Path:
    """The stored checkpoint with a tokenizer's file, brought in."""
    folder = tmp_path_factory.mktemp("in")
    shutil.copytree(SOURCE, folder / "theirs")
    (folder / "theirs" / "tokenizer.model").write_bytes(b"theirs")
    result = convert(folder / "theirs", folder / "ours")
    assert result.returncode == 0, result.stderr
    assert "left out: 12 tensors of its prediction block" in result.stdout
    assert "its tokenizer is kept in ernie45/ and not used" in result.stdout
    return folder / "ours"


def write_run(folder: Path, weights: Path) -> Path:
    """A run file: the model of the folder, an elastic stage of a few steps, a text."""
    (folder / "text.txt").write_text("".join(f"The number {i} follows {i - 1}.\n" for i in range(3000)))
    stage = yaml.safe_load((ROOT / "configs/stage/tiny.yaml").read_text())["stages"][0]
    elastic = {"depth_probability": 0.5, "min_layers": 2, "width_probability": 0.5, "min_experts": 4}
    elastic |= {"sparsity_probability": 0.5, "min_top_k": 1}
    tree = {
        "include": [str(weights / MODEL_YAML)],
        "stages": [stage | {"num_tokens": 256 * 12, "elastic": elastic}],
        "data": {
            "train": [{"name": "text", "path": str(folder / "text.txt"), "document_separator": "line"}],
            "num_workers": 0,
        },
        "train": {"init_from": str(weights), "output_dir": str(folder / "run"), "log_steps": 1, "eval_steps": 0}
        | {"sample_steps": 0, "save_steps": 0, "visualdl": False},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def draws_the_full_model_first(config: Config) -> bool:
    full, drawn = full_subnet(config.model), draw_subnet(config.model, config.stages[0].elastic, config.train.seed, 0)
    kept = drawn.layer_ids, drawn.top_k, drawn.experts_kept().all()
    return kept == (full.layer_ids, full.top_k, True)


@paddle.no_grad()
def first_loss(config: Config, tokenizer: TextTokenizer) -> float:
    """Of the source's weights, as they are in its files, on the first batch of the run: nats a token."""
    settings = config_from_ernie45(json.loads((SOURCE / "config.json").read_text()), "source")
    model = Ernie5ForCausalLM(settings)
    weights = {name: host_array(one) for name, one in from_ernie45(load_tensors(SOURCE), settings).items()}
    missing, unexpected = model.set_state_dict(weights)
    assert not missing and not unexpected
    corpora, _ = open_splits(config.data, config.train.seed)
    length = config.stages[0].max_seq_len
    loader = Loader(corpora, tokenizer, config.data, max_seq_len=length, longest_seq_len=length, seed=config.train.seed)
    with loader:
        rows = loader.next_rows(config.stages[0].batch_tokens // length)
    batch = make_batch(rows)
    return float(model(batch, full_subnet(settings)).text) / float(batch.loss_weight.sum())


def test_an_elastic_run_begins_with_the_checkpoints_loss_and_goes_out_again(ours, tmp_path):
    path = write_run(tmp_path, ours)
    config = next(
        config for seed in range(100) if draws_the_full_model_first(config := load_config(path, [f"train.seed={seed}"]))
    )
    assert config.model == read_config(ours)
    assert run(config, "", show)
    steps = records(tmp_path / "run", "train")
    drawn = [tuple(step["subnet"].values()) for step in steps]
    assert len(set(drawn)) > 3 and drawn[0] == (3, 8, 3)  # layers, experts, top-k
    expected = first_loss(config, TextTokenizer.from_pretrained(tmp_path / "run" / "model"))
    assert losses(tmp_path / "run")[0][1] == pytest.approx(expected, rel=1e-6)  # summed in micro-batches
    assert steps[-1]["loss"] < steps[0]["loss"]
    result = convert(tmp_path / "run" / "model", tmp_path / "back", "--layout", "paddle")
    assert result.returncode == 0, result.stderr
    tokenizers = [TextTokenizer.from_pretrained(tmp_path / name).digest for name in ("run/model", "back")]
    assert tokenizers[0] == tokenizers[1]
    again = convert(tmp_path / "back", tmp_path / "again", "--name", "mine")
    assert again.returncode == 0, again.stderr
    trained = read_config(tmp_path / "run" / "model")
    assert read_config(tmp_path / "again") == dataclasses.replace(trained, name="mine")
    weights = load_weights(tmp_path / "run" / "model", trained)
    for name, weight in load_weights(tmp_path / "again", trained).items():
        np.testing.assert_array_equal(weight, weights[name], err_msg=name)


def test_mistakes_end_with_2_and_one_sentence(ours, tmp_path):
    (tmp_path / "empty").mkdir()
    cases = {
        "empty/config.json: cannot be read": (tmp_path / "empty", tmp_path / "new"),
        "holds something already": (SOURCE, ours),
        "invalid choice: 'torch'": (ours, tmp_path / "new", "--layout", "torch"),
    }
    for message, arguments in cases.items():
        result = convert(*arguments)
        assert result.returncode == 2 and message in result.stderr
    assert not (tmp_path / "new").exists()
