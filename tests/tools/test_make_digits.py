"""tools/make_digits.py: what it prints, what it refuses."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SMALL = ("--num-train", "120", "--num-validation", "5", "--num-test", "5")

QUICK = ("--speakers", "1", "--renditions", "1")


def make(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/make_digits.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_world_and_sheet_are_made(tmp_path: Path):
    sheet = tmp_path / "shown" / "sheet.png"
    result = make("--output", str(tmp_path / "world"), *SMALL, "--weight", "copy=0", *QUICK, "--show", str(sheet))
    assert result.returncode == 0, result.stderr
    assert "train" in result.stdout and "digest" in result.stdout
    assert "copy=" not in result.stdout and "listen=" in result.stdout
    assert "judge            40 sounds  espeak=40 recorded=0" in result.stdout
    assert len((tmp_path / "world" / "train.jsonl").read_text(encoding="utf-8").splitlines()) == 120
    assert np.asarray(Image.open(sheet).convert("L")).std() > 10


def test_folder_of_somebody_else_is_refused_in_one_sentence(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    result = make("--output", str(tmp_path), *SMALL)
    assert result.returncode == 2
    assert result.stderr.strip().endswith("give another --output, or remove it yourself")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_weight_of_an_unknown_task_is_refused(tmp_path: Path):
    result = make("--output", str(tmp_path / "world"), "--weight", "reed=3")
    assert result.returncode == 2
    assert "--weight reed=3: write TASK=N" in result.stderr


def test_world_without_speech_has_no_sounds(tmp_path: Path):
    result = make("--output", str(tmp_path / "world"), *SMALL, "--no-speech")
    assert result.returncode == 0, result.stderr
    assert "listen=" not in result.stdout and "sounds" not in result.stdout
    assert not (tmp_path / "world" / "sounds").exists() and not (tmp_path / "world" / "sounds.jsonl").exists()


@pytest.mark.parametrize(
    "options, told",
    [
        (("--no-speech", "--weight", "listen=3"), "listen is a task with sounds"),
        (("--speech-language", "en", "nl"), 'the language "nl" is not spoken'),
        (("--recordings", "no/such/folder"), "no/such/folder: No such file"),
        (("--hold-out", "theo"), "there are no recordings"),
    ],
)
def test_speech_that_cannot_be_is_refused_in_one_sentence(tmp_path: Path, options: tuple, told: str):
    result = make("--output", str(tmp_path / "world"), *SMALL, *options)
    assert result.returncode == 2 and told in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "world").exists()
