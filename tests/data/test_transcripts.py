"""The index of sounds: what it gives, and what it refuses by file and line."""

import json
from pathlib import Path

import pytest

from ernie5.data.manifest import BadLine
from ernie5.data.transcripts import Utterance, is_index, read_index
from ernie5.errors import UserError


def index(folder: Path, *lines: object) -> str:
    (folder / "a.wav").write_bytes(b"sound")
    (folder / "sounds.jsonl").write_text("".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines))
    return str(folder / "sounds.jsonl")


def test_a_line_gives_its_sound_and_what_it_says(tmp_path: Path):
    full = {"sound": "a.wav", "text": "seven", "speaker": "f1", "split": "test", "language": "en"}
    path = index(tmp_path, full, "", {"sound": "a.wav"})
    sound = str(tmp_path / "a.wav")
    assert read_index(path) == [Utterance(sound, "seven", "f1", "test"), Utterance(sound)]


def test_an_index_is_told_from_a_manifest(tmp_path: Path):
    assert is_index(index(tmp_path, {"sound": "a.wav"}))
    assert not is_index(index(tmp_path, {"text": "a"}))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ([], "the line is a list: an object is expected"),
        ({"text": "a"}, 'the line has no "sound"'),
        ({"sound": "a.wav", "text": 7}, "text is a number: text is expected"),
        ({"sound": "a.wav", "speaker": None}, "speaker is null: text is expected"),
        ({"sound": "b.wav"}, '"b.wav" is not a file'),
        ({"sound": "/a.wav"}, "is absolute"),
        ({"sound": "../a.wav"}, "leads out of the manifest's folder"),
        ({"sound": "https://a/b.wav"}, "is an address"),
    ],
)
def test_a_bad_line_is_told_by_its_place(line: object, message: str, tmp_path: Path):
    path = index(tmp_path, {"sound": "a.wav"}, line)
    with pytest.raises(BadLine, match=message) as caught:
        read_index(path)
    assert str(caught.value).startswith(f"{path}:2: ")


def test_an_empty_index_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="holds no line"):
        read_index(index(tmp_path, ""))


def test_an_index_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be read"):
        read_index(str(tmp_path / "none.jsonl"))
