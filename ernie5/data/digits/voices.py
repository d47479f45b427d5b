"""Who speaks in the samples of one task in one split: sounds of the bank, dealt by what they say."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ernie5.data.digits.bank import Form, Sound
from ernie5.data.digits.deck import Deck
from ernie5.data.digits.texts import Language


class Speech(NamedTuple):
    """The sounds of a split, and how they are chosen from."""

    sounds: Sequence[Sound]
    languages: tuple[Language, ...]  # that are spoken; the first where a request's own is none of them
    recorded_share: float  # of the digits, where there are recordings


class Voices:
    """Deals sounds: those that say the same, in one language or in any, each as often as any other."""

    def __init__(self, speech: Speech, rng: np.random.Generator):
        self.speech, self.rng = speech, rng
        self._sounds: dict[tuple, list[Sound]] = defaultdict(list)
        self._by_speaker: dict[str, list[Sound]] = defaultdict(list)
        self._decks: dict[tuple, Deck] = {}
        for sound in speech.sounds:
            for digits in (sound.digits, None):
                for language in (sound.language, None):
                    self._sounds[sound.source, sound.form, digits, language].append(sound)
            if sound.form == "digit":
                self._by_speaker[sound.speaker].append(sound)

    def language(self, request: Language) -> Language:
        """The one that is spoken if the request is in this one."""
        return request if request in self.speech.languages else self.speech.languages[0]

    def deal(self, form: Form, digits: tuple[int, ...] | None = None, language: Language | None = None) -> Sound:
        """One that says these digits, or any; in this language, or in any. By chance a recording, if there are such."""
        keys = [(source, form, digits, language) for source in ("recorded", "espeak")]
        there = [key for key in keys if key in self._sounds]
        key = there[0] if len(there) == 1 else there[self.rng.random() >= self.speech.recorded_share]
        if key not in self._decks:
            self._decks[key] = Deck(self._sounds[key], self.rng)
        return self._decks[key].deal()

    def reference(self, sound: Sound) -> Sound:
        """Another sound of its speaker, a digit; of a speaker who has no other, the sound itself."""
        others = [other for other in self._by_speaker[sound.speaker] if other.path != sound.path] or [sound]
        return others[self.rng.integers(len(others))]
