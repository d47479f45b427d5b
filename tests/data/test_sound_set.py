"""Sounds of folders, manifests and indexes, in memory."""

import json
from pathlib import Path

import numpy as np
import pytest

from ernie5.data.sound_set import find_sounds, read_clips
from ernie5.data.sounds import write_sound
from ernie5.data.transcripts import Utterance
from ernie5.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sounds of half a second and of two, a text file, an index and a manifest."""
    for name, seconds in (("a", 0.5), ("b", 2.0)):
        write_sound(tmp_path / f"{name}.wav", 0.1 * np.ones(int(8000 * seconds)), 8000)
    (tmp_path / "c.txt").write_text("no sound")
    lines = [
        {"sound": "a.wav", "text": "seven", "speaker": "f1", "split": "train"},
        {"sound": "b.wav", "text": "nine", "speaker": "f2", "split": "test"},
    ]
    (tmp_path / "sounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sample = {"segments": [{"type": "audio", "source": "a.wav", "role": "understand"}, {"type": "text", "text": "a"}]}
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    return tmp_path


def test_a_folder_gives_its_sounds_alone(folder: Path):
    assert find_sounds([str(folder)]) == [Utterance(str(folder / "a.wav")), Utterance(str(folder / "b.wav"))]


def test_an_index_gives_the_lines_of_a_split(folder: Path):
    path = str(folder / "sounds.jsonl")
    assert [found.text for found in find_sounds([path])] == ["seven", "nine"]
    assert find_sounds([path], "test") == [Utterance(str(folder / "b.wav"), "nine", "f2", "test")]


def test_a_manifest_gives_its_sounds(folder: Path):
    assert find_sounds([str(folder / "samples.jsonl")]) == [Utterance(str(folder / "a.wav"))]


def test_a_sound_comes_once_as_it_was_named_first(folder: Path):
    found = find_sounds([str(folder / "sounds.jsonl"), str(folder)], "train")
    assert [utterance.text for utterance in found] == ["seven", ""]


def test_a_split_without_a_line_is_refused(folder: Path):
    with pytest.raises(UserError, match='holds no sound of the split "judge"'):
        find_sounds([str(folder / "sounds.jsonl")], "judge")


def test_a_path_without_a_sound_is_refused(folder: Path):
    (folder / "empty").mkdir()
    (folder / "empty/c.txt").write_text("no sound")
    with pytest.raises(UserError, match="holds no sound that was not named before"):
        find_sounds([str(folder / "empty")])


def test_a_long_sound_is_cut_and_loses_its_text(folder: Path):
    clips = read_clips(find_sounds([str(folder / "sounds.jsonl")]), 4000, 0.75)
    assert [(len(clip.samples), clip.text, clip.speaker) for clip in clips] == [
        (2000, "seven", "f1"),
        (3000, "", "f2"),
        (3000, "", "f2"),
        (2000, "", "f2"),
    ]
