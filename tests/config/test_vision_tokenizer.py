"""The settings of a vision tokenizer and of its training."""

from dataclasses import replace
from pathlib import Path

import pytest

from ernie5.config.load import load_as, load_model_config
from ernie5.config.schema import ResolutionConfig, VisionEncoderConfig
from ernie5.config.vision_tokenizer import VisionTokenizerConfig, VisionTokenizerRunConfig, check, check_run
from ernie5.errors import UserError

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/tokenizer/digits.yaml"
GOOD = VisionTokenizerConfig(
    encoder=VisionEncoderConfig(channels=(8, 16)),
    bits=4,
    resolutions=(ResolutionConfig(height=4, width=4, scales=((1, 1), (2, 2))),),
)


def test_a_shipped_configuration_holds_every_rule_and_says_what_it_is():
    check_run(load_as(VisionTokenizerRunConfig, CONFIG), str(CONFIG))
    assert CONFIG.read_text(encoding="utf-8").startswith("# ")


def test_the_digit_tokenizer_is_the_one_that_the_digit_model_reads():
    tokenizer = load_as(VisionTokenizerRunConfig, ROOT / "configs/tokenizer/digits.yaml").tokenizer
    vision = load_model_config(ROOT / "configs/model/digits.yaml").vision
    assert tokenizer.encoder == vision.encoder
    assert tokenizer.resolutions == vision.resolutions
    assert tokenizer.bits <= vision.max_bits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 0}, "bits is 0: must be above 0"),
        ({"resolutions": ()}, "resolutions is empty"),
        ({"encoder": VisionEncoderConfig(channels=(8, 16), temporal_stride=3)}, "must be a power of two"),
        (
            {"encoder": VisionEncoderConfig(channels=(8, 16), temporal_stride=4)},
            "must not exceed the stride in space, 2",
        ),
        (
            {"resolutions": (*GOOD.resolutions, ResolutionConfig(height=4, width=4, scales=((1, 1), (1, 2), (2, 2))))},
            "resolutions.1.height and width are 4 and 4 a second time",
        ),
        (
            {"resolutions": (ResolutionConfig(height=4, width=4, scales=((1, 1), (2, 1))),)},
            r"resolutions.0.scales must begin with \[1, 1\] and end with \[2, 2\]",
        ),
    ],
)
def test_a_broken_rule_is_told(change: dict, message: str):
    with pytest.raises(UserError, match=message):
        check(replace(GOOD, **change), "here")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.image_steps=0", "train.image_steps is 0: must be above 0"),
        ("train.scale_dropout=1.5", "train.scale_dropout is 1.5: must lie between 0 and 1"),
        ("train.loss.entropy=-1", "train.loss.entropy is -1.0: must not be negative"),
        ("train.loss.adversarial.r1_weight=-1", "train.loss.adversarial.r1_weight is -1.0"),
        ("data.train=[]", "data.train is empty"),
        ("data.fps=0", "data.fps is 0.0: must be above 0"),
    ],
)
def test_a_setting_out_of_range_is_told_by_its_key(override: str, message: str):
    path = ROOT / "configs/tokenizer/digits.yaml"
    with pytest.raises(UserError, match=message):
        check_run(load_as(VisionTokenizerRunConfig, path, [override]), str(path))


def test_films_must_fill_their_latent_frames():
    path = ROOT / "configs/tokenizer/digits.yaml"
    overrides = ["tokenizer.encoder.temporal_stride=2", "train.video_frames=4"]
    with pytest.raises(UserError, match="train.video_frames is 4: must be one more than a multiple of 2"):
        check_run(load_as(VisionTokenizerRunConfig, path, overrides), str(path))
