"""The rules of the audio sections, each broken once; and what elasticity must keep."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ernie5.config import rules
from ernie5.config.schema import AudioConfig, Config, MediaPromptConfig, MemberConfig, ModalityBalanceConfig
from ernie5.elastic.sampler import draw_subnet, member_subnet
from tests.config.test_rules import ELASTIC, VALID, changed

LEVELS = 2
AUDIO = AudioConfig(sample_rate=8_000, num_codebooks=LEVELS, codebook_size=16, speaker_dim=4)
HEARING = replace(
    VALID,
    model=replace(VALID.model, audio=AUDIO),
    tokenizer=replace(VALID.tokenizer, audio="codec", speaker="speaker"),
    stages=(replace(VALID.stages[0], elastic=replace(ELASTIC, keep_last_layers=LEVELS, min_layers=3)),),
)


def config_with(changes: dict[str, Any], config: Config = HEARING) -> Config:
    for key, value in changes.items():
        config = changed(config, key, value)
    return config


def test_a_fitting_configuration_passes():
    assert rules.violations(HEARING) == []


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"model.audio.sample_rate": 0}, "model.audio.sample_rate is 0: must be above 0"),
        ({"model.audio.sample_rate": 8_010}, "model.audio.sample_rate is 8010: must be a multiple of 25"),
        ({"model.audio.num_codebooks": 0}, "model.audio.num_codebooks is 0: must be above 0"),
        ({"model.audio.codebook_size": 0}, "model.audio.codebook_size is 0: must be above 0"),
        ({"model.audio.max_seconds": 0.0}, "model.audio.max_seconds is 0.0: must be above 0"),
        ({"model.audio.speaker_dim": -1}, "model.audio.speaker_dim is -1: must not be negative"),
        (
            {"model.audio.num_codebooks": 5, "stages.0.elastic.depth_probability": 0.0, "members": ()},
            "model.audio.num_codebooks is 5: must not exceed model.num_hidden_layers (4)",
        ),
        ({"stages.0.audio.loss_weight": -1.0}, "stages.0.audio.loss_weight is -1.0: must not be negative"),
        ({"stages.0.balance.decay": 1.0}, "stages.0.balance.decay is 1.0: must be at least 0 and below 1"),
        ({"stages.0.balance.decay": -0.1}, "stages.0.balance.decay is -0.1: must be at least 0 and below 1"),
        ({"stages.0.balance.power": 0.0}, "stages.0.balance.power is 0.0: must be above 0 and at most 1"),
        ({"stages.0.balance.power": 1.5}, "stages.0.balance.power is 1.5: must be above 0 and at most 1"),
        ({"stages.0.balance.measure_steps": -1}, "stages.0.balance.measure_steps is -1: must not be negative"),
        (
            {"stages.0.elastic.keep_last_layers": 1},
            "stages.0.elastic.keep_last_layers is 1: must be at least model.audio.num_codebooks (2)",
        ),
        ({"members.0.num_layers": 1}, "members.0.num_layers is 1: must be at least model.audio.num_codebooks (2)"),
        ({"tokenizer.audio": ""}, "tokenizer.audio is empty: name the folder of an audio tokenizer"),
        ({"tokenizer.speaker": ""}, 'model.audio.speaker_dim is 4 and tokenizer.speaker "": set both'),
        ({"model.audio.speaker_dim": 0}, 'model.audio.speaker_dim is 0 and tokenizer.speaker "speaker": set both'),
        ({"model.audio": None}, "tokenizer.audio is set, but the model has no audio section"),
        ({"model.audio": None, "tokenizer.audio": ""}, "tokenizer.speaker is set, but the model has no audio section"),
        ({"data.audio.condition_dropout": 1.1}, "data.audio.condition_dropout is 1.1: must lie between 0 and 1"),
        ({"data.audio.level_dropout": -0.1}, "data.audio.level_dropout is -0.1: must lie between 0 and 1"),
        ({"generation.audio.top_p": 0.0}, "generation.audio.top_p is 0.0: must be above 0 and at most 1"),
        ({"generation.audio.temperature": -1.0}, "generation.audio.temperature is -1.0: must not be negative"),
        ({"generation.audio.top_k": -1}, "generation.audio.top_k is -1: must not be negative"),
        ({"generation.audio.guidance": -1.0}, "generation.audio.guidance is -1.0: must not be negative"),
        ({"generation.audio.max_seconds": 0.0}, "generation.audio.max_seconds is 0.0: must be above 0"),
        (
            {
                "model.audio.speaker_dim": 0,
                "tokenizer.speaker": "",
                "generation.media_prompts": (MediaPromptConfig(speaker="a.wav"),),
            },
            "generation.media_prompts.0.speaker is set, but model.audio.speaker_dim is 0",
        ),
    ],
)
def test_a_broken_rule_is_told_and_is_the_only_one(changes: dict[str, Any], expected: str):
    messages = rules.violations(config_with(changes))
    assert len(messages) == 1 and expected in messages[0]


@pytest.mark.parametrize(
    "prompt", [MediaPromptConfig(audio="a.wav"), MediaPromptConfig(speaker="a.wav"), MediaPromptConfig(answer="audio")]
)
def test_a_prompt_with_sound_needs_a_model_with_audio(prompt):
    (message,) = rules.violations(
        config_with({"generation.media_prompts": (MediaPromptConfig(text="a"), prompt)}, VALID)
    )
    assert message == "generation.media_prompts.1: the model has no audio section: leave this prompt out"
    assert rules.violations(config_with({"generation.media_prompts": (prompt,)})) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"model.audio.num_codebooks": 4, "stages.0.elastic.depth_probability": 0.0, "members.0.num_layers": 4},
        {"stages.0.elastic.keep_last_layers": 1, "stages.0.elastic.depth_probability": 0.0},
        {"members.0.num_layers": 0},
        {"members.0.num_layers": LEVELS},
        {"stages.0.audio.loss_weight": 0.0},
        {"stages.0.balance": ModalityBalanceConfig(method="posterior", decay=0.0, measure_steps=1)},
        {"model.audio.speaker_dim": 0, "tokenizer.speaker": ""},
    ],
)
def test_a_limit_itself_is_allowed(changes: dict[str, Any]):
    assert rules.violations(config_with(changes)) == []


@pytest.mark.parametrize("depth", [3, 4, 5, 7, 8, 0])
def test_a_member_keeps_the_layers_that_predict_codes(depth):
    model = replace(HEARING.model, num_hidden_layers=8, audio=replace(AUDIO, num_codebooks=3))
    layers = member_subnet(model, MemberConfig(name="m", num_layers=depth)).layer_ids
    assert len(layers) == (depth or 8) and list(layers) == sorted(set(layers))
    assert layers[-3:] == (5, 6, 7)
    others = len(layers) - max(3, len(layers) // 2)  # the rest stands at the beginning
    assert layers[:others] == tuple(range(others))


def test_no_draw_skips_a_layer_that_predicts_codes():
    elastic = replace(HEARING.stages[0].elastic, depth_probability=1.0, min_layers=4, keep_last_layers=3)
    model = replace(HEARING.model, num_hidden_layers=8, audio=replace(AUDIO, num_codebooks=3))
    drawn = [draw_subnet(model, elastic, 0, step).layer_ids for step in range(100)]
    assert all(layers[-3:] == (5, 6, 7) for layers in drawn)
    assert set(np.unique([len(layers) for layers in drawn])) == {4, 5, 6, 7}
