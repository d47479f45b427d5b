"""The bank of sounds: digits and phrases by every voice of the digit world, as files and an index of them."""

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ernie5.data.digits.deck import Deck
from ernie5.data.digits.recordings import Recording, read_fsdd, split_recordings
from ernie5.data.digits.scans import Split
from ernie5.data.digits.speech import LANGUAGES, speak, split_speakers
from ernie5.data.digits.texts import NUMBER_WORDS, SPOKEN_SUMS, Language
from ernie5.data.sounds import read_sound, write_sound
from ernie5.errors import UserError

SAMPLE_RATE = 8_000
INDEX = "sounds.jsonl"
SPEEDS = (130, 230)  # words a minute
PITCHES = (30, 70)  # the speaker's own is 50
LEVELS = (0.5, 1.0)  # of the loudness that eSpeak NG gives
SUMS, PAIRS = 20, 10  # phrases of each speaker in each language
MANY = 500  # sounds that are worth the start of more processes
MAX_SECONDS = 10.0  # of a recording: a digit is shorter
_STREAM = 100  # of chance, apart from the tasks', which are numbered by split

Form = Literal["digit", "sum", "pair"]  # "seven", "three plus four", "four seven"
Source = Literal["espeak", "recorded"]


@dataclass(frozen=True, kw_only=True)
class SpeechConfig:
    """What is spoken and by whom."""

    languages: tuple[Language, ...] = ("en",)
    renditions: int = 4  # of each digit by each speaker in each language
    speakers: int = 0  # of eSpeak NG's in each split at most; 0: all
    recordings: str = ""  # folder of recorded digits, in English
    held_out: str = ""  # who of the recorded speakers is heard in the test alone; the first by name if nobody is named
    recorded_share: float = 0.5  # of the spoken digits, where there are recordings


class Sound(NamedTuple):
    """A sound of the bank, and what is true of it."""

    path: str  # relative to the world's folder
    text: str
    language: Language
    speaker: str
    split: Split
    source: Source
    form: Form
    digits: tuple[int, ...]


class _Rendition(NamedTuple):
    """What is to be synthesized."""

    sound: Sound
    speed: int
    pitch: int
    level: float


def check_speech(config: SpeechConfig) -> None:
    """Raises UserError for a bank that cannot be made."""
    unknown = [language for language in config.languages if language not in LANGUAGES]
    if unknown:
        raise UserError(f'the language "{unknown[0]}" is not spoken: use one of {", ".join(LANGUAGES)}')
    if not config.languages or len(set(config.languages)) < len(config.languages):
        raise UserError(f"the spoken languages are {list(config.languages)}: name at least one, each once")
    if config.renditions < 1:
        raise UserError(f"renditions is {config.renditions}: give at least 1")
    if config.speakers < 0:
        raise UserError(f"speakers is {config.speakers}: give a number above 0, or 0 for all")
    if not 0 <= config.recorded_share <= 1:
        raise UserError(f"recorded_share is {config.recorded_share}: give a number from 0 to 1")
    if config.held_out and not config.recordings:
        raise UserError(f'"{config.held_out}" is held out, but there are no recordings: name their folder')
    _recordings(config)


def num_sounds(config: SpeechConfig) -> int:
    """How many sounds the bank will have."""
    return len(_renditions(config, 0)) + len(_recordings(config))


def make_bank(folder: Path, config: SpeechConfig, seed: int, progress: Callable[[int], object]) -> list[Sound]:
    """Writes the sounds and their index into the folder; `progress` is told how many sounds were written."""
    renditions = list(_renditions(config, seed))
    sounds = [rendition.sound for rendition in renditions]
    write = partial(_write_rendition, folder)
    if len(renditions) < MANY:
        for rendition in renditions:
            write(rendition)
            progress(1)
    else:  # eSpeak NG is loaded anew for each text, which takes most of the time
        workers = len(os.sched_getaffinity(0))
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_leave_interrupts_to_the_parent) as pool:
            for _ in pool.map(write, renditions, chunksize=16):
                progress(1)
    for sound, recording in _recordings(config):
        write_sound(folder / sound.path, read_sound(recording.path, SAMPLE_RATE, MAX_SECONDS), SAMPLE_RATE)
        sounds.append(sound)
        progress(1)
    lines = (json.dumps(_as_record(sound), ensure_ascii=False) for sound in sounds)
    (folder / INDEX).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return sounds


def _write_rendition(folder: Path, rendition: "_Rendition") -> None:
    sound = rendition.sound
    samples = speak(sound.text, sound.language, sound.speaker, SAMPLE_RATE, rendition.speed, rendition.pitch)
    write_sound(folder / sound.path, rendition.level * samples, SAMPLE_RATE)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def describe_bank(folder: Path, sounds: Sequence[Sound], config: SpeechConfig) -> dict:
    """What world.json says of the bank: speakers and numbers of sounds in each split, who is held out, and a digest."""
    splits = list(split_speakers())
    digest = hashlib.sha256()
    for sound in sounds:
        digest.update(f"{json.dumps(_as_record(sound))}\n".encode() + (folder / sound.path).read_bytes())
    return {
        "sample_rate": SAMPLE_RATE,
        "speakers": {split: list(dict.fromkeys(s.speaker for s in sounds if s.split == split)) for split in splits},
        "sounds": {
            split: {
                source: sum(s.split == split and s.source == source for s in sounds)
                for source in ("espeak", "recorded")
            }
            for split in splits
        },
        "held_out": _recorded_name(held_out(config)) if config.recordings else "",
        "sounds_digest": digest.hexdigest(),
    }


def held_out(config: SpeechConfig) -> str:
    """The recorded speaker of the test."""
    return config.held_out or min(recording.speaker for recording in read_fsdd(config.recordings))


def spoken_text(form: Form, digits: Sequence[int], language: Language) -> str:
    """The words for these digits: `seven`, `three plus four` or `four seven`."""
    words = [NUMBER_WORDS[language][digit] for digit in digits]
    return SPOKEN_SUMS[language].format(*words) if form == "sum" else " ".join(words)


def _as_record(sound: Sound) -> dict:
    """A line of the index."""
    record = {"sound": sound.path, "text": sound.text, "language": sound.language}
    return record | {"speaker": sound.speaker, "split": sound.split, "source": sound.source}


def _renditions(config: SpeechConfig, seed: int) -> list[_Rendition]:
    """What eSpeak NG speaks, in the order of splits, languages and speakers."""
    found = []
    for number, (split, speakers) in enumerate(split_speakers().items()):
        for language in config.languages:
            rng = np.random.default_rng((seed, _STREAM, number, list(LANGUAGES).index(language)))
            pairs = {form: Deck(list(product(range(10), repeat=2)), rng) for form in ("sum", "pair")}
            for speaker in speakers[: config.speakers or None]:
                for place, (form, digits) in enumerate(_sayings(config.renditions, pairs)):
                    path = f"sounds/{split}/{speaker}_{language}_{place:03d}.wav"
                    text = spoken_text(form, digits, language)
                    sound = Sound(path, text, language, speaker, split, "espeak", form, digits)
                    speed, pitch = (int(rng.integers(low, high + 1)) for low, high in (SPEEDS, PITCHES))
                    found.append(_Rendition(sound, speed, pitch, float(rng.uniform(*LEVELS))))
    return found


def _sayings(renditions: int, pairs: dict[Form, Deck]) -> Iterator[tuple[Form, tuple[int, ...]]]:
    """What one speaker says in one language."""
    yield from (("digit", (digit,)) for digit in range(10) for _ in range(renditions))
    yield from (("sum", pairs["sum"].deal()) for _ in range(SUMS))
    yield from (("pair", pairs["pair"].deal()) for _ in range(PAIRS))


def _recordings(config: SpeechConfig) -> list[tuple[Sound, Recording]]:
    """The recorded digits, each with its place in the bank."""
    if not config.recordings:
        return []
    found = []
    for split, chosen in split_recordings(read_fsdd(config.recordings), held_out(config)).items():
        for recording in chosen:
            speaker = _recorded_name(recording.speaker)
            path = f"sounds/{split}/{speaker}_{recording.digit}_{recording.take}.wav"
            text = NUMBER_WORDS["en"][recording.digit]
            sound = Sound(path, text, "en", speaker, split, "recorded", "digit", (recording.digit,))
            found.append((sound, recording))
    return found


def _recorded_name(speaker: str) -> str:
    """A recorded person may be called as one of eSpeak NG's speakers is."""
    return f"recorded_{speaker}"
