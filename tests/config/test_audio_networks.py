"""The settings of the networks beside the audio codec."""

from pathlib import Path

import pytest

from ernie5.config.audio_networks import SpeakerRunConfig, check_speaker_run
from ernie5.config.load import load_as
from ernie5.errors import UserError

CONFIG = Path(__file__).parents[2] / "configs/tokenizer/digits_speaker.yaml"


def test_the_shipped_speaker_encoder_holds_every_rule_and_says_what_it_is():
    check_speaker_run(load_as(SpeakerRunConfig, CONFIG), str(CONFIG))
    assert CONFIG.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train=[]", "data.train is empty"),
        ("data.max_seconds=0", "data.max_seconds is 0.0: must be above 0"),
        ("encoder.dim=0", "encoder: dim is 0: must be 1 to"),
        ("train.steps=0", "train: steps is 0: must be above 0"),
        ("threads=-1", "threads is -1: must not be negative"),
    ],
)
def test_a_setting_out_of_range_is_told_by_its_key(override: str, message: str):
    with pytest.raises(UserError, match=message):
        check_speaker_run(load_as(SpeakerRunConfig, CONFIG, [override]), "here")
