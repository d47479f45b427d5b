"""The settings of an audio tokenizer and of its training."""

from dataclasses import replace
from pathlib import Path

import pytest

from ernie5.config.audio_tokenizer import (
    AudioAdversarialConfig,
    AudioLossConfig,
    AudioSemanticConfig,
    AudioTokenizerConfig,
    AudioTokenizerDataConfig,
    AudioTokenizerRunConfig,
    AudioTokenizerTrainConfig,
    check,
    check_run,
)
from ernie5.config.load import load_as
from ernie5.errors import UserError

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs/tokenizer").glob("*audio*.yaml"))
GOOD = AudioTokenizerConfig(sample_rate=8000, hop_size=80, window_size=320)
RUN = AudioTokenizerRunConfig(
    tokenizer=GOOD,
    train=AudioTokenizerTrainConfig(steps=1),
    data=AudioTokenizerDataConfig(train=("sounds",)),
    output_dir="out",
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_holds_every_rule_and_says_what_it_is(path: Path):
    check_run(load_as(AudioTokenizerRunConfig, path), str(path))
    assert path.read_text(encoding="utf-8").startswith("# ")


def with_loss(**changes: object) -> dict:
    return {"train": replace(RUN.train, loss=AudioLossConfig(**changes))}


@pytest.mark.parametrize(
    ("sample_rate", "hop_size", "window_size"),
    [(8000, 80, 320), (24_000, 240, 960), (16_000, 160, 320), (44_100, 72, 288)],
)
def test_hops_that_divide_80_ms_are_taken(sample_rate: int, hop_size: int, window_size: int):
    config = replace(GOOD, sample_rate=sample_rate, hop_size=hop_size, window_size=window_size)
    check(config, "here")
    assert config.frame_size == 0.08 * sample_rate == config.steps_per_frame * hop_size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop_size": 60}, "hop_size is 60: must divide 640, the samples of 80 ms at 8000 Hz"),
        ({"sample_rate": 11_025}, "must divide 882"),
        ({"sample_rate": 8001}, "must divide 640.08"),
        ({"hop_size": 0}, "hop_size is 0: must be above 0"),
        ({"window_size": 352}, "window_size is 352: must be a multiple of hop_size, at least 160"),
        ({"hop_size": 320}, "window_size is 320: must be a multiple of hop_size, at least 640"),
        ({"window_size": 240}, "window_size is 240: must be a multiple of 32"),
        ({"window_size": 6400}, "window_size is 6400: must be at most 4096"),
        ({"num_blocks": -1}, "num_blocks is -1: must not be negative"),
        ({"num_frame_blocks": 65}, "num_frame_blocks is 65: must be at most 64"),
        ({"num_codebooks": 0}, "num_codebooks is 0: must be above 0"),
        ({"latent_size": 40}, "latent_size is 40: must be a multiple of 16"),
        ({"channels": 60}, "channels is 60: must be a multiple of 16"),
        ({"frame_channels": 8192}, "frame_channels is 8192: must be at most 4096"),
        ({"codebook_size": 131_072}, "codebook_size is 131072: must be at most 65536"),
    ],
)
def test_a_broken_rule_is_told(change: dict, message: str):
    with pytest.raises(UserError, match=message):
        check(replace(GOOD, **change), "here")


def test_a_codec_without_blocks_is_taken():
    check(replace(GOOD, num_blocks=0, num_frame_blocks=0), "here")


def test_a_good_run_is_taken():
    check_run(RUN, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": AudioTokenizerTrainConfig(steps=0)}, "train.steps is 0: must be above 0"),
        ({"train": AudioTokenizerTrainConfig(steps=1, quantizer_dropout=2.0)}, "quantizer_dropout is 2.0"),
        (with_loss(mel=-1.0), "train.loss.mel is -1.0: must not be negative"),
        (with_loss(windows=(64, 30)), r"train.loss.windows is \[64, 30\]: give multiples of 4 from 16 on"),
        (with_loss(windows=()), "train.loss.windows is"),
        (with_loss(adversarial=AudioAdversarialConfig(periods=(0,))), "train.loss.adversarial.periods is 0"),
        (with_loss(adversarial=AudioAdversarialConfig(periods=(), resolutions=())), "give at least one of either"),
        (with_loss(semantic=AudioSemanticConfig(weight=-1.0)), "train.loss.semantic.weight is -1.0"),
        ({"data": AudioTokenizerDataConfig(train=())}, "data.train is empty"),
        ({"data": AudioTokenizerDataConfig(train=("a",), validation_fraction=1.0)}, "data.validation_fraction is 1.0"),
        ({"data": AudioTokenizerDataConfig(train=("a",), max_seconds=0.0)}, "data.max_seconds is 0.0"),
        ({"tokenizer": replace(GOOD, kernel_size=0)}, "tokenizer.kernel_size is 0: must be above 0"),
    ],
)
def test_a_broken_rule_of_a_run_is_told(change: dict, message: str):
    with pytest.raises(UserError, match=message):
        check_run(replace(RUN, **change), "here")
