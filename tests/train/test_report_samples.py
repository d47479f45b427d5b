"""Media in the report's samples."""

import base64
import re

import numpy as np
import pytest
from PIL import Image

from ernie5.data.sounds import write_sound
from ernie5.train.report_samples import samples_section


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "samples").mkdir()
    for name, seed in (("in", 0), ("out", 1)):
        write_sound(tmp_path / "samples" / f"{name}.wav", np.random.default_rng(seed).uniform(-1, 1, 800), 8000)
    Image.fromarray(np.zeros([8, 8, 3], np.uint8)).save(tmp_path / "samples" / "in.png")
    return tmp_path


def section(run_dir, **more):
    return samples_section([{"kind": "sample", "step": 1, "prompt": "Say", "text": "", **more}], run_dir)


def played(html):
    return [
        base64.b64decode(data) for data in re.findall(r'<audio controls="" src="data:audio/wav;base64,([^"]+)">', html)
    ]


def test_what_was_spoken_can_be_played_and_has_a_picture(run_dir):
    html = section(run_dir, output_file="samples/out.wav")
    assert played(html) == [(run_dir / "samples" / "out.wav").read_bytes()]
    assert html.count('<img src="data:image/png;base64,') == 1 and "<b>Say</b>" in html


def test_what_was_heard_can_be_played_beside_what_was_answered(run_dir):
    heard = (run_dir / "samples" / "in.wav").read_bytes()
    assert played(section(run_dir, input_file="samples/in.wav", text="seven")) == [heard]
    both = section(run_dir, input_file="samples/in.wav", output_file="samples/out.wav")
    assert played(both) == [(run_dir / "samples" / "out.wav").read_bytes(), heard]


def test_picture_is_shown_beside_the_sound_that_is_made_of_it(run_dir):
    html = section(run_dir, input_file="samples/in.png", output_file="samples/out.wav")
    assert len(played(html)) == 1 and html.count("<img") == 2


def test_sound_that_cannot_be_pictured_is_still_there(run_dir):
    (run_dir / "samples" / "out.wav").write_bytes(b"RIFF")
    html = section(run_dir, output_file="samples/out.wav")
    assert played(html) == [b"RIFF"] and "<img" not in html


def test_sound_outside_the_run_folder_is_not_shown(run_dir):
    assert played(section(run_dir / "samples", output_file="../secret.wav")) == []
    (run_dir.parent / "secret.wav").write_bytes(b"RIFF")
    assert played(section(run_dir, output_file="../secret.wav")) == []


def test_prompt_is_escaped_where_it_describes_a_sound(run_dir):
    html = section(run_dir, prompt='"><script>', output_file="samples/out.wav")
    assert "<script" not in html and 'alt="&quot;&gt;&lt;script&gt;"' in html
