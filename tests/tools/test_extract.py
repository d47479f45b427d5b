"""tools/extract.py on freshly trained tiny models."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest

from ernie5.elastic.extract import extracted_config
from ernie5.errors import UserError
from ernie5.inference.show import show
from ernie5.modality.batch import make_batch
from ernie5.model.folder import VISION_TOKENIZER, from_pretrained, load_weights, read_config
from ernie5.model.subnet import full_subnet
from ernie5.tokenizers.text import TextTokenizer
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer
from ernie5.train.run import run
from tests.runs import ROOT, records, train
from tests.sequences import packed_batch
from tests.vision_runs import vision_config

LAYERS, EXPERTS = 3, 8


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run that ended, with three layers, eight experts and a prediction block."""
    folder = tmp_path_factory.mktemp("run")
    train(folder, "stages.0.num_tokens=2048", "train.sample_steps=0")
    return folder


def tool(name: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def extract(*arguments: object) -> subprocess.CompletedProcess:
    result = tool("extract", *arguments)
    assert "Traceback" not in result.stderr
    return result


def test_a_smaller_model_generates_and_has_what_the_larger_one_had(run_dir, tmp_path):
    small = tmp_path / "small"
    (run_dir / "model" / "generation_config.json").write_text('{"temperature": 0.5}')
    result = extract(run_dir / "model", small, "--layers", "0,2", "--num-experts", 4, "--top-k", 1)
    assert result.returncode == 0, result.stderr
    assert ["layers", "3", "->", "2"] in [line.split() for line in result.stdout.splitlines()]
    config = read_config(small)
    assert (config.name, config.num_hidden_layers) == ("small", 2)
    assert (config.moe.num_experts, config.moe.num_experts_per_tok) == (4, 1)
    digests = {TextTokenizer.from_pretrained(folder).digest for folder in (run_dir / "model", small)}
    assert len(digests) == 1
    assert json.loads((small / "generation_config.json").read_text()) == {"temperature": 0.5}
    ids = [json.loads((folder / "config.json").read_text())["eos_token_id"] for folder in (run_dir / "model", small)]
    assert ids[0] == ids[1]
    said = tool("generate", small, "--prompt", "The class", "--max-new-tokens", 4)
    assert said.returncode == 0 and said.stdout.startswith("The class")


def experts_of(small: Path, large: Path, row: int) -> list[int]:
    """Which experts of the larger model's layer lie in the smaller one's, found by their weights."""
    stem = "mtp.block" if row == LAYERS else f"decoder.layers.{row}"
    tensors = [load_weights(folder, read_config(folder))[f"{stem}.mlp.experts.down_proj"] for folder in (small, large)]
    return [next(i for i, old in enumerate(tensors[1]) if (old == new).all()) for new in tensors[0]]


def test_named_experts_are_kept_layer_by_layer(run_dir, tmp_path):
    small = tmp_path / "small"
    lists = ("--experts", "0-1,6", "--experts", "1:2,3,5", "--experts", "mtp:5-7")
    assert extract(run_dir / "model", small, *lists).returncode == 0
    found = [experts_of(small, run_dir / "model", row) for row in range(LAYERS + 1)]
    assert found == [[0, 1, 6], [2, 3, 5], [0, 1, 6], [5, 6, 7]]


def test_the_most_used_experts_of_a_run_are_those_of_its_log(run_dir, tmp_path):
    small = tmp_path / "small"
    result = extract(run_dir / "model", small, "--num-experts", 3, "--use-of", run_dir)
    assert result.returncode == 0, result.stderr
    shares = [layer["text"] for layer in records(run_dir, "expert_use")[-1]["shares"]]
    trained = [record["load"] for record in records(run_dir, "train") if "load" in record][-1]
    for row, use in enumerate([*shares, trained[-1]]):
        assert experts_of(small, run_dir / "model", row) == sorted(np.argsort(-np.array(use), kind="stable")[:3])


def test_use_is_measured_over_a_text(run_dir, tmp_path):
    text, small = tmp_path / "text.txt", tmp_path / "small"
    text.write_text("class for while")
    result = extract(run_dir / "model", small, "--num-experts", 4, "--measure", text)
    assert result.returncode == 0, result.stderr
    expected = most_chosen(run_dir / "model", "class for while")
    assert [experts_of(small, run_dir / "model", row) for row in range(LAYERS + 1)] == expected


def most_chosen(folder: Path, text: str) -> list[list[int]]:
    """The four experts of each block that the tokens of one document choose most often, counted by hooks of our own."""
    model, tokenizer = from_pretrained(folder), TextTokenizer.from_pretrained(folder)
    counts = np.zeros([LAYERS + 1, EXPERTS], int)
    for row, block in enumerate([*model.decoder.layers, model.mtp.block]):

        def count(_layer, _inputs, routing, row=row):
            counts[row] += np.bincount(routing.topk_ids.numpy().ravel(), minlength=EXPERTS)

        block.mlp.gate.register_forward_post_hook(count)
    ids = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
    model(make_batch(packed_batch([[ids]])), full_subnet(model.config))
    return [sorted(np.argsort(-row, kind="stable")[:4].tolist()) for row in counts]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--layers", "0,9"], "--layers 0,9: '9' must rise and lie between 0 and 2"),
        (["--layers", "two"], "--layers two: 'two' is no number and no range"),
        (["--num-layers", "9"], "num_layers is 9, the model has 3"),
        (["--num-layers", "-1"], "--num-layers is -1: give 1 or more"),
        (["--experts", "7:0-3"], "--experts 7:0-3: 7 is no layer with experts that is kept; name one of 0, 1, 2, mtp"),
        (["--experts", "0-3", "--experts", "1:0-4"], "4 in layer 0, 5 in layer 1"),
        (["--experts", "0-3", "--experts", "0-4"], "have a list already"),
        (["--experts", "0"], "top-k 2: must lie between 1 and the number of experts that are kept (1)"),
        (["--use-of", "nowhere"], "give --num-experts as well"),
        (["--num-experts", "4", "--use-of", "nowhere"], "nowhere/metrics.jsonl: holds no use of experts"),
        (["--num-experts", "4", "--measure", "nowhere"], "nowhere is not a file, a folder or a glob"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(run_dir, monkeypatch, arguments, message):
    """In this process, as there are many."""
    tool = run_path(str(ROOT / "tools" / "extract.py"))
    monkeypatch.setattr(sys, "argv", ["extract.py", str(run_dir / "model"), "small", *arguments])
    config = read_config(run_dir / "model")
    with pytest.raises(UserError, match=re.escape(message)):
        parsed = tool["parse_arguments"]()
        tool["check_numbers"](parsed)
        extracted_config(config, tool["chosen_subnet"](parsed, config), "small")


def test_a_mistake_ends_with_2_and_nothing_is_written(run_dir, tmp_path):
    result = extract(run_dir / "model", tmp_path / "small", "--layers", "0,9")
    assert result.returncode == 2 and "'9' must rise" in result.stderr
    assert not (tmp_path / "small").exists()


def test_a_folder_that_holds_something_is_left_alone(run_dir, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    result = extract(run_dir / "model", tmp_path, "--top-k", 1)
    assert result.returncode == 2 and "holds something already" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_a_checkpoint_of_ernie45_brought_comes_along(run_dir, tmp_path):
    shutil.copytree(run_dir / "model", tmp_path / "model")
    (tmp_path / "model" / "ernie45").mkdir()
    (tmp_path / "model" / "ernie45" / "tokenizer.model").write_bytes(b"theirs")
    assert extract(tmp_path / "model", tmp_path / "small", "--top-k", 1).returncode == 0
    assert (tmp_path / "small" / "ernie45" / "tokenizer.model").read_bytes() == b"theirs"


def test_weights_of_another_model_are_refused(run_dir, tmp_path):
    shutil.copytree(run_dir / "model", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(path.read_text().replace('"hidden_size": 64', '"hidden_size": 32'))
    result = extract(tmp_path / "model", tmp_path / "small", "--top-k", 1)
    assert result.returncode == 2 and "weights of another model" in result.stderr


def test_tokenizers_of_media_come_along_and_it_draws(tmp_path):
    run(vision_config(tmp_path, "train.max_steps=1"), "", show)
    model, small = tmp_path / "run" / "model", tmp_path / "small"
    result = extract(model, small, "--num-layers", 2, "--num-experts", 4)
    assert result.returncode == 0, result.stderr
    digests = {VisionTokenizer.from_pretrained(folder / VISION_TOKENIZER).digest for folder in (model, small)}
    assert len(digests) == 1
    drawn = tool("generate", small, "--prompt", "number 1", "--draw", "image", "--output", tmp_path / "drawn.png")
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "drawn.png").exists()
