"""The settings of an audio tokenizer and of its training."""

from dataclasses import replace

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
from ernie5.errors import UserError

GOOD = AudioTokenizerConfig(sample_rate=8000, strides=(8, 5, 4, 4), channels=(16, 32, 64, 64))
RUN = AudioTokenizerRunConfig(
    tokenizer=GOOD,
    train=AudioTokenizerTrainConfig(steps=1),
    data=AudioTokenizerDataConfig(train=("sounds",)),
    output_dir="out",
)


def with_loss(**changes: object) -> dict:
    return {"train": replace(RUN.train, loss=AudioLossConfig(**changes))}


@pytest.mark.parametrize(
    ("sample_rate", "strides"),
    [(8000, (8, 5, 4, 4)), (24_000, (8, 8, 6, 5)), (44_100, (7, 7, 8, 9)), (16_000, (1, 8, 8, 5, 4))],
)
def test_strides_of_80_ms_are_taken(sample_rate: int, strides: tuple[int, ...]):
    config = replace(GOOD, sample_rate=sample_rate, strides=strides, channels=(16,) * len(strides))
    check(config, "here")
    assert config.frame_size == 0.08 * sample_rate


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": (8, 5, 4, 5)}, "strides multiply to 800: must give 640, the samples of 80 ms at 8000 Hz"),
        ({"sample_rate": 11_025}, "must give 882"),
        ({"strides": (8, 80)}, "channels has 4 entries: give one for each of the 2 strides"),
        ({"strides": (), "channels": ()}, "strides is empty: give a number for each level"),
        ({"strides": (-8, -5, 4, 4)}, r"strides is \[-8, -5, 4, 4\]: must be above 0"),
        ({"dilations": (1, 0)}, r"dilations is \[1, 0\]: must be above 0"),
        ({"num_codebooks": 0}, "num_codebooks is 0: must be above 0"),
        ({"latent_size": 40}, r"latent_size is \[40\]: must be multiples of 16"),
        ({"channels": (16, 32, 60, 64)}, r"channels is \[16, 32, 60, 64\]: must be multiples of 16"),
        ({"channels": (16, 32, 64, 8192)}, "channels is 8192: must be at most 4096"),
        ({"codebook_size": 131_072}, "codebook_size is 131072: must be at most 65536"),
    ],
)
def test_a_broken_rule_is_told(change: dict, message: str):
    with pytest.raises(UserError, match=message):
        check(replace(GOOD, **change), "here")


def test_a_codec_without_residual_units_is_taken():
    check(replace(GOOD, dilations=()), "here")


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
