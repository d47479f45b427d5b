"""Speech on request, heard by a judge."""

import json
from pathlib import Path

import numpy as np
import pytest

from ernie5.analysis.digit_world import Case
from ernie5.analysis.utterances import digit_error_rate, judge_world, read_sounds, say_cases, score_utterances
from ernie5.errors import UserError

ROW = {"sound": "a.wav", "text": "one", "language": "en", "speaker": "f1", "split": "judge", "source": "espeak"}


class Counting:
    """A judge that hears as many digits as a waveform has samples."""

    def digits(self, waveform: np.ndarray) -> str:
        return "7" * len(waveform)


def case(says: str, task: str = "speak", language: str = "en") -> Case:
    return Case([], task, language, tuple(map(int, says)), "", None, "", "", says=says)


def say(lengths: list[int]):
    return lambda prompts, seed: [np.zeros(lengths.pop(0), np.float32) for _ in prompts]


def test_what_is_said_is_right_where_the_judge_hears_what_was_asked_for():
    cases = [case("7"), case("77", "speak_two", "de"), case("7"), Case([], "read", "en", (7,), "7", None, "", "")]
    told = []
    utterances = say_cases(cases, say([1, 1, 2]), Counting(), 0, told.append)
    assert [utterance.is_right for utterance in utterances] == [True, False, False]
    assert sum(told) == 3
    scores = score_utterances(utterances)
    assert (scores["speak"].right, scores["speak"].cases) == (1, 2)
    assert scores["speak_two"].by_language == {"de": (0, 1)}


def test_the_digit_error_rate_counts_edits_over_what_should_be_said():
    utterances = say_cases([case("7"), case("77"), case("8")], say([1, 1, 2]), Counting(), 0, lambda _: None)
    assert digit_error_rate(utterances) == pytest.approx((0 + 1 + 2) / 4)


def test_every_batch_has_another_seed():
    seeds = []

    def speak(prompts, seed):
        seeds.append(seed)
        return [np.zeros(1, np.float32)] * len(prompts)

    say_cases([case("7")] * 65, speak, Counting(), 5, lambda _: None)
    assert len(set(seeds)) == len(seeds) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("", "it is no index of sounds"),
        ("[]", "it is no index of sounds"),
        ("{", "Expecting property name"),
        (json.dumps({"sound": "a.wav"}), "it is no index of sounds"),
    ],
)
def test_a_world_without_an_index_of_sounds_is_refused(tmp_path: Path, text: str | None, message: str):
    if text is not None:
        (tmp_path / "sounds.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        read_sounds(tmp_path)
    assert "make a world with speech" in str(caught.value)


def test_a_world_whose_judge_hears_no_english_is_refused(tmp_path: Path):
    (tmp_path / "sounds.jsonl").write_text(json.dumps(ROW | {"language": "de"}), encoding="utf-8")
    with pytest.raises(UserError, match="no sound of the judge's"):
        judge_world(tmp_path)
