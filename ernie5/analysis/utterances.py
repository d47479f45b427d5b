"""What a model says on request in the digit world, heard by the judge of spoken digits."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ernie5.analysis.digit_world import Case, Score, batches
from ernie5.analysis.spoken_digits import Clip, SpeechJudge, judge_clips
from ernie5.data.digits.recordings import read_fsdd
from ernie5.data.sample import Segment
from ernie5.errors import UserError
from ernie5.tokenizers.audio.recogniser import error_rate

_KEYS = {"sound", "text", "language", "speaker", "split", "source"}
# prompts, seed -> one waveform each, float32 [samples] at the judge's rate
Say = Callable[[list[list[Segment]], int], list[np.ndarray]]


def judge_world(world: Path, recordings: str = "", held_out: str = "") -> list[Clip]:
    """What the judge learns from: its own voices and recordings in a digit world, and those of a folder of recordings.

    Of the latter `held_out` is not learned; by default the first by name. UserError if there is nothing to learn.
    """
    if recordings and not held_out:
        held_out = min(recording.speaker for recording in read_fsdd(recordings))
    clips = judge_clips(read_sounds(world), world, recordings, held_out)
    if not clips:
        raise UserError(f"{world}: has no sound of the judge's: make a world with speech in English")
    return clips


def read_sounds(world: Path) -> list[dict[str, str]]:
    """The rows of a world's index of sounds. UserError if it cannot be read."""
    index = world / "sounds.jsonl"
    try:
        rows = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        rows, cause = [], error
    else:
        cause = "it is no index of sounds"
    if not rows or not all(isinstance(row, dict) and row.keys() >= _KEYS for row in rows):
        raise UserError(
            f"{index}: cannot be used ({cause}): make a world with speech (tools/make_digits.py --output {world})"
        )
    return rows


class Utterance(NamedTuple):
    """What was asked for, what was said, and the digits that the judge hears."""

    case: Case
    samples: np.ndarray  # float32 [samples]
    heard: str

    @property
    def is_right(self) -> bool:
        return self.heard == self.case.says


def say_cases(
    cases: Sequence[Case], say: Say, judge: SpeechJudge, seed: int, progress: Callable[[int], object]
) -> list[Utterance]:
    """Says what is asked for and has it heard. Cases that ask for anything else are left out."""
    utterances = []
    for number, batch in enumerate(batches([case for case in cases if case.says])):
        waveforms = say([case.prompt for case in batch], seed + number)
        heard = (judge.digits(waveform) for waveform in waveforms)
        utterances += map(Utterance, batch, waveforms, heard)
        progress(len(batch))
    return utterances


def score_utterances(utterances: Iterable[Utterance]) -> dict[str, Score]:
    """By task, how many are heard as what they should say."""
    scores: dict[str, Score] = defaultdict(Score)
    for utterance in utterances:
        scores[utterance.case.name].add(utterance.case.language, utterance.is_right)
    return dict(scores)


def digit_error_rate(utterances: Sequence[Utterance]) -> float:
    """Edits that turn what is heard into what should be said, over the digits of the latter, all together."""
    return error_rate([u.heard for u in utterances], [u.case.says for u in utterances])
