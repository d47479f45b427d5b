"""Training with pictures and films: what a run leaves, and the switch from few bits to many (report §2.2.1)."""

import json
import shutil

import pytest

from ernie5.errors import UserError
from ernie5.inference.show import show
from ernie5.model.folder import VISION_TOKENIZER, from_pretrained
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer
from ernie5.train.run import run
from ernie5.train.schedule import vision_bits
from tests.runs import losses, records
from tests.vision_runs import save_tokenizer, vision_config

SWITCHES = "stages.0.vision.switches=[{step: 0, bits: 4}, {step: 3, bits: 6}]"


def test_run_trains_both_objectives_and_leaves_a_whole_model_folder(tmp_path):
    config = vision_config(tmp_path)
    assert run(config, "", show)
    steps = records(tmp_path / "run", "train")
    assert all(step["loss_vision"] > 0 and step["loss_text"] > 0 for step in steps)
    assert records(tmp_path / "run", "eval")[-1]["loss_vision"] > 0
    model = from_pretrained(tmp_path / "run" / "model")
    tokenizer = VisionTokenizer.from_pretrained(tmp_path / "run" / "model" / VISION_TOKENIZER)
    cnn, encoder = model.vision_understanding.state_dict(), tokenizer.encoder.state_dict()
    assert all((cnn[f"cnn.{name}"].numpy() == weight.numpy()).all() for name, weight in encoder.items())


def test_switch_happens_at_its_step_and_is_recorded(tmp_path):
    run(vision_config(tmp_path, SWITCHES), "", show)
    assert [step["vision_bits"] for step in records(tmp_path / "run", "train")] == [4, 4, 4, 6, 6, 6]
    assert "the vision tokenizer of 6 bits takes over" in [e["text"] for e in records(tmp_path / "run", "event")]
    state = json.loads((tmp_path / "run" / "checkpoints" / "step_00000003" / "state.json").read_text())
    assert state["train"]["vision_bits"] == 4 and set(state["vision_tokenizers"]) == {"4", "6"}


def test_resume_across_the_switch_gives_the_same_losses(tmp_path):
    run(vision_config(tmp_path, SWITCHES, f"train.output_dir={tmp_path / 'whole'}"), "", show)
    for stop in (3, 4):
        cut = tmp_path / f"cut_{stop}"
        settings = (SWITCHES, f"train.output_dir={cut}")
        run(vision_config(tmp_path, *settings, f"train.max_steps={stop}"), "", show)
        run(vision_config(tmp_path, *settings), "auto", show)
        assert losses(cut) == losses(tmp_path / "whole")


def test_resume_takes_the_run_folders_tokenizers_and_refuses_others(tmp_path):
    run(vision_config(tmp_path, "train.max_steps=3"), "", show)
    save_tokenizer(tmp_path / "run" / "vision_tokenizers" / "006_bits", 6, seed=1)
    with pytest.raises(UserError, match="was trained with other vision tokenizers"):
        run(vision_config(tmp_path), "auto", show)


def test_workers_give_the_same_losses(tmp_path):
    run(vision_config(tmp_path, f"train.output_dir={tmp_path / 'none'}"), "", show)
    run(vision_config(tmp_path, f"train.output_dir={tmp_path / 'two'}", "data.num_workers=2"), "", show)
    assert losses(tmp_path / "two") == losses(tmp_path / "none")


@pytest.mark.parametrize(
    "override, message",
    [
        ("model.vision.encoder.channels=[8, 8]", "the tokenizer's encoder is .* make them equal"),
        ("model.vision.max_bits=5", "the tokenizer has 6 bits, but model.vision.max_bits is 5"),
        ("stages.0.vision.switches=[{step: 0, bits: 5}]", "no tokenizer of 5 bits; tokenizer.vision has 4, 6"),
    ],
)
def test_tokenizer_that_does_not_fit_is_refused(tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        run(vision_config(tmp_path, override), "", show)


def test_bits_are_those_of_the_last_switch_or_the_most(tmp_path):
    plain = vision_config(tmp_path).stages[0]
    stage = vision_config(tmp_path, "stages.0.vision.switches=[{step: 0, bits: 4}, {step: 5, bits: 6}]").stages[0]
    assert [vision_bits(stage, step, most_bits=8) for step in (0, 4, 5, 9)] == [4, 4, 6, 6]
    assert vision_bits(plain, 3, most_bits=8) == 8


def test_first_switch_stands_at_the_beginning(tmp_path):
    with pytest.raises(UserError, match="begin with 0"):
        vision_config(tmp_path, "stages.0.vision.switches=[{step: 2, bits: 4}]")


def test_tokenizers_of_a_run_that_never_saved_are_not_taken_for_this_ones(tmp_path):
    run(vision_config(tmp_path, "train.max_steps=1"), "", show)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    four = f"tokenizer.vision=[{tmp_path / 'tokenizer_4'}]"
    run(vision_config(tmp_path, four, "train.max_steps=3"), "", show)
    run(vision_config(tmp_path, four), "auto", show)
    assert [path.name for path in (tmp_path / "run" / "vision_tokenizers").iterdir()] == ["004_bits"]


def test_two_tokenizers_of_the_same_bits_are_refused(tmp_path):
    with pytest.raises(UserError, match="two tokenizers of 4 bits"):
        run(vision_config(tmp_path, f"tokenizer.vision=[{tmp_path}/tokenizer_4, {tmp_path}/tokenizer_4]"), "", show)


def test_prompt_whose_medium_cannot_be_read_is_refused_before_the_first_step(tmp_path):
    prompt = "generation.media_prompts=[{text: a, image: nothere.png}]"
    with pytest.raises(UserError, match="generation.media_prompts.0: .*nothere.png"):
        run(vision_config(tmp_path, prompt), "", show)
