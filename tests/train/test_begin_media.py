"""A member of a run with all four modalities is taken out, scores what it scored inside, and trains on."""

from pathlib import Path

import pytest
import yaml

from ernie5.config.load import load_config
from ernie5.config.schema import Config
from ernie5.elastic.extract import extracted_config, extracted_tensors
from ernie5.elastic.sampler import member_subnet
from ernie5.inference.show import show
from ernie5.model.folder import (
    AUDIO_TOKENIZER,
    MODEL_YAML,
    SPEAKER_ENCODER,
    VISION_TOKENIZER,
    load_weights,
    read_config,
    save_folder,
    tokenizers_in,
)
from ernie5.train.run import run
from tests.parallel.media_run import write_run
from tests.runs import records

LOSSES = ("loss", "loss_vision", "loss_audio")
STANDING = ("stages.0.learning_rate=1e-30", "stages.0.min_learning_rate=0", "stages.0.expert_bias_speed=0")


def begin(path: Path, small: Path, run_dir: Path, *overrides: str) -> Config:
    """The run file with the model, the weights and the tokenizers of a folder in the place of its own."""
    tree = yaml.safe_load(path.read_text())
    del tree["model"], tree["members"]
    tree["stages"][0]["elastic"] = {}
    tree["include"] = [str(small / MODEL_YAML)]
    vision, audio, speaker = (str(small / name) for name in (VISION_TOKENIZER, AUDIO_TOKENIZER, SPEAKER_ENCODER))
    tree["tokenizer"] |= {"vision": [vision], "audio": audio, "speaker": speaker}
    tree["train"] |= {"init_from": str(small), "output_dir": str(run_dir), "save_steps": 0, "eval_steps": 0}
    begun = path.with_name(f"{run_dir.name}.yaml")
    begun.write_text(yaml.safe_dump(tree))
    return load_config(begun, overrides)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The folder of a run file and of its run, of two steps."""
    pytest.importorskip("soundfile")
    folder = tmp_path_factory.mktemp("source")
    assert run(load_config(write_run(folder), ["stages.0.num_tokens=1920"]), "", show)
    return folder


@pytest.fixture(scope="module")
def small(source) -> Path:
    """Its member, four of five layers, four of eight experts, one expert a token, taken out."""
    config, model = load_config(source / "run.yaml"), source / "run" / "model"
    full, subnet = read_config(model), member_subnet(config.model, config.members[0])
    smaller = extracted_config(full, subnet, "small")
    tensors = extracted_tensors(load_weights(model, full), full, subnet)
    return save_folder(smaller, tensors, source / "small", **tokenizers_in(model))


def test_it_scores_what_it_scored_inside_the_full_model(source, small, tmp_path):
    config = begin(source / "run.yaml", small, tmp_path / "standing", "stages.0.num_tokens=960", *STANDING)
    assert (config.model.num_hidden_layers, config.model.moe.num_experts) == (4, 4)
    run(config, "", show)
    inside = records(source / "run", "eval")[-1]["members"]["small"]
    alone = records(tmp_path / "standing", "eval")[-1]
    for name in LOSSES:
        assert alone[name] == pytest.approx(inside[name], rel=1e-5), name  # the router's sums have fewer terms


def test_it_trains_on(source, small, tmp_path):
    run(begin(source / "run.yaml", small, tmp_path / "on", "stages.0.num_tokens=9600"), "", show)
    steps = records(tmp_path / "on", "train")
    assert all(step[f"loss_{name}"] > 0 for step in steps for name in ("text", "vision", "audio"))
    assert steps[-1]["loss_text"] < steps[0]["loss_text"]
