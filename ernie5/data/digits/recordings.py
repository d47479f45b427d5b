"""Recorded digits: the Free Spoken Digit Dataset, or any folder named alike, and who may hear which recording."""

import hashlib
import os
import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from ernie5.data.digits.scans import Split
from ernie5.errors import UserError

# Shares of the recordings of each digit by each speaker, but for the speaker who is held out: test is all of theirs.
SHARES: dict[Split, float] = {"judge": 0.4, "validation": 0.1, "train": 0.5}
_NAME = re.compile(r"([0-9])_([^_]+)_([0-9]+)\.wav")


class Recording(NamedTuple):
    """A digit spoken once."""

    path: str
    digit: int
    speaker: str
    take: int


def read_fsdd(folder: str) -> list[Recording]:
    """The recordings `{digit}_{speaker}_{take}.wav` of the folder, by digit, speaker and take.

    The folder may be the dataset's repository, which has them in `recordings`. Raises UserError if it cannot be
    listed, has no such file, or a .wav file of another name.
    """
    inner = os.path.join(folder, "recordings")
    folder = inner if os.path.isdir(inner) else folder
    try:
        names = [name for name in os.listdir(folder) if name.lower().endswith(".wav") and not name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}: name the folder of the Free Spoken Digit Dataset") from None
    if not names:
        raise UserError(f"{folder}: holds no .wav file: name the folder of the Free Spoken Digit Dataset")
    recordings = []
    for name in sorted(names):
        match = _NAME.fullmatch(name)
        if match is None:
            raise UserError(f"{os.path.join(folder, name)}: is not named {{digit}}_{{speaker}}_{{take}}.wav: rename it")
        recordings.append(Recording(os.path.join(folder, name), int(match[1]), match[2], int(match[3])))
    return sorted(recordings, key=lambda recording: recording[1:])


def split_recordings(recordings: list[Recording], held_out: str) -> dict[Split, list[Recording]]:
    """The recordings of each split, in their order: all of the speaker `held_out` are the test.

    A function of digits, speakers and takes alone: the others' takes go by the order of their hashes. Raises UserError
    if `held_out` is none of the speakers, or the only one.
    """
    speakers = sorted({recording.speaker for recording in recordings})
    if held_out not in speakers:
        raise UserError(f'nobody is called "{held_out}": hold out one of {", ".join(speakers)}')
    if len(speakers) == 1:
        raise UserError(f"{held_out} is the only speaker: give recordings of at least two")
    groups: dict[tuple[int, str], list[Recording]] = defaultdict(list)
    for recording in recordings:
        groups[recording.digit, recording.speaker].append(recording)
    split: dict[Split, list[Recording]] = {"test": [], **{name: [] for name in SHARES}}
    for (_, speaker), members in groups.items():
        if speaker == held_out:
            split["test"] += members
            continue
        ordered = sorted(members, key=_hash)
        bounds = np.rint(np.cumsum([0.0, *SHARES.values()]) * len(ordered)).astype(int)
        for name, start, end in zip(SHARES, bounds[:-1], bounds[1:], strict=True):
            split[name] += ordered[start:end]
    return {name: sorted(chosen, key=lambda recording: recording[1:]) for name, chosen in split.items()}


def _hash(recording: Recording) -> bytes:
    return hashlib.sha256(f"{recording.digit}_{recording.speaker}_{recording.take}".encode()).digest()
