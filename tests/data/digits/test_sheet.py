import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from ernie5.data.digits.bank import SAMPLE_RATE
from ernie5.data.digits.sheet import examples, spectrogram
from ernie5.data.digits.tasks import TASKS
from ernie5.data.digits.world import WorldConfig

ROOT = Path(__file__).parents[3]


def test_sheet_of_the_guide_shows_the_world_as_it_is_made_today():
    with Image.open(ROOT / "docs" / "images" / "digits.png") as sheet:
        shown = json.loads(sheet.text["Description"])
    config = asdict(WorldConfig())
    assert shown == json.loads(json.dumps(config | {"weights": dict(config["weights"])}))


def test_spectrogram_shows_when_and_how_high_a_tone_is():
    time = np.arange(4_000) / SAMPLE_RATE
    tone = np.where(time < 0.25, 0, np.sin(2 * np.pi * 1_000 * time))
    shown = spectrogram(tone)
    assert shown.shape[0] == 32 and shown.dtype == np.uint8
    assert not shown[:, : shown.shape[1] // 2 - 2].any()
    row_hertz = SAMPLE_RATE / 2 / 32
    assert abs(31 - shown[:, -5].argmax() - 1_000 / row_hertz) <= 1


def test_a_sound_shorter_than_a_window_has_a_spectrogram():
    assert spectrogram(np.ones(3)).shape == (32, 1)


def test_examples_have_all_tasks_with_media_or_sounds(small_world: Path):
    assert set(examples(small_world)) == set(TASKS) - {"add"}
