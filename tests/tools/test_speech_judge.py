"""tools/speech_judge.py: what it refuses, and a judge of a small world."""

import subprocess
import sys
from pathlib import Path

import pytest

from ernie5.analysis.spoken_digits import SpeechJudge
from ernie5.data.digits.bank import SpeechConfig
from ernie5.data.digits.tasks import TASKS
from ernie5.data.digits.world import WorldConfig, make_world
from tests.runs import ROOT


def train_judge(*options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/speech_judge.py", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "options, message",
    [
        (("--steps", -1), "--steps is -1"),
        ((), "sounds.jsonl: cannot be used"),
    ],
)
def test_mistakes_are_told_in_one_sentence(tmp_path: Path, options: tuple[object, ...], message: str):
    result = train_judge("--world", tmp_path, *options)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_world_without_english_has_nothing_for_the_judge(tmp_path: Path):
    make_small_world(tmp_path / "world", "de")
    result = train_judge("--world", tmp_path / "world")
    assert result.returncode == 2 and "has no sound of the judge's" in result.stderr


def test_the_judge_lands_in_the_world_and_tells_its_errors_on_voices_it_did_not_hear(tmp_path: Path):
    world = make_small_world(tmp_path / "world", "en")
    result = train_judge("--world", world, "--steps", 2)
    assert result.returncode == 0, result.stderr
    assert "held-out espeak voices: " in result.stdout
    SpeechJudge.load(world / "speech_judge")


def make_small_world(folder: Path, language: str) -> Path:
    speech = SpeechConfig(renditions=1, speakers=1, languages=(language,))
    weights = tuple((name, 1) for name in TASKS)
    make_world(folder, WorldConfig(num_train=1, num_validation=1, num_test=1, weights=weights, speech=speech))
    return folder
