"""Text becomes speech by eSpeak NG, with the library and voices of espeakng-loader; and who hears which speaker.

The same text, voice, speed and pitch give the same samples, in whatever order and process they are asked for.
"""

import ctypes
import hashlib
import threading
from typing import Any

import numpy as np

from ernie5.data.digits.scans import Split
from ernie5.data.digits.texts import Language
from ernie5.errors import UserError

MIN_SPEED, MAX_SPEED = 80, 450  # words a minute that eSpeak NG can speak
MAX_PITCH = 99
SPEED, PITCH = 175, 50  # its defaults
# eSpeak NG's names of the languages.
LANGUAGES: dict[Language, str] = {"en": "en-us", "de": "de", "fr": "fr", "es": "es", "zh": "cmn", "ja": "ja"}
# Speakers: variants of eSpeak NG's voice, in every language. Left out are those that whisper, play a robot or clip
# badly, and of those that sound much alike all but one.
SPEAKERS = (
    *("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8"),
    *("Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Henrique", "Lee", "Marco"),
    *("Michael", "Nguyen", "Reed", "Storm", "anika", "aunty", "belinda", "benjamin", "boris", "david"),
    *("ed", "edward", "grandma", "ian", "john", "linda", "marcelo", "michel", "miguel"),
    *("norbert", "pablo", "paul", "pedro", "quincy", "rob", "sandro", "shelby", "steph", "travis", "victor", "zac"),
)
# The judge learns from speakers that no model or codec ever hears; test is held out from both.
SHARES: dict[Split, float] = {"judge": 1 / 4, "test": 1 / 6, "validation": 1 / 12, "train": 1 / 2}
# eSpeak NG reads no Chinese characters in Japanese; these are the ones of the digit world.
_READINGS = {
    **{"零": "れい", "一": "いち", "二": "に", "三": "さん", "四": "よん", "五": "ご", "六": "ろく", "七": "なな"},
    **{"八": "はち", "九": "きゅう", "数字": "すうじ", "漢字": "かんじ", "描": "か"},
}
_SYNCHRONOUS, _DO_NOT_EXIT, _CHARACTERS, _UTF8 = 2, 0x8000, 1, 1  # of speak_lib.h
_SPEED, _PITCH = 1, 3  # numbers of its parameters
_SILENT = 0.003  # of the peak (-50 dB): what is not louder, at the ends, is silence
_MARGIN = 0.01  # seconds of silence left at each end
_speaking = threading.Lock()
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def split_speakers() -> dict[Split, tuple[str, ...]]:
    """The speakers of each split, in the order of SPEAKERS. A function of their names alone: the order of hashes."""
    ordered = sorted(SPEAKERS, key=lambda name: hashlib.sha256(name.encode()).digest())
    bounds = np.rint(np.cumsum([0.0, *SHARES.values()]) * len(ordered)).astype(int)
    chosen = {name: set(ordered[a:b]) for name, a, b in zip(SHARES, bounds[:-1], bounds[1:], strict=True)}
    return {name: tuple(speaker for speaker in SPEAKERS if speaker in chosen[name]) for name in SHARES}


def speak(
    text: str, language: Language, speaker: str, sample_rate: int, speed: int = SPEED, pitch: int = PITCH
) -> np.ndarray:
    """The text spoken, float32 [samples] in [-1, 1], without the silence before and after.

    `speaker`: one of SPEAKERS; `speed`: words a minute, 80 to 450; `pitch`: 0 to 99, about the speaker's own at 50.
    Raises UserError for anything else, a text that says nothing or cannot be read, and where the extra is missing.
    """
    try:
        import espeakng_loader
        import soxr
    except ImportError:
        raise UserError("speech needs eSpeak NG and soxr: pip install 'ernie5[data]'") from None
    _check_voice(language, speaker, speed, pitch)
    data = _readable(text, language)
    with _speaking:
        samples, rate = _synthesize(espeakng_loader, data, f"{LANGUAGES[language]}+{speaker}", speed, pitch)
    samples = _trimmed(samples.astype(np.float32) / 32768, rate)
    if not len(samples):
        raise UserError(f"the text {text[:60]!r} says nothing in the language {language}: give words to speak")
    return np.clip(soxr.resample(samples, rate, sample_rate), -1, 1)


def _check_voice(language: str, speaker: str, speed: int, pitch: int) -> None:
    if language not in LANGUAGES:
        raise UserError(f'the language "{language}" is not spoken: use one of {", ".join(LANGUAGES)}')
    if speaker not in SPEAKERS:  # eSpeak NG would take its plain voice without a word
        raise UserError(f'the speaker "{speaker}" is not known: use one of {", ".join(SPEAKERS)}')
    if not MIN_SPEED <= speed <= MAX_SPEED:
        raise UserError(f"speed is {speed} words a minute: give {MIN_SPEED} to {MAX_SPEED}")
    if not 0 <= pitch <= MAX_PITCH:
        raise UserError(f"pitch is {pitch}: give 0 to {MAX_PITCH}")


def _readable(text: str, language: Language) -> bytes:
    """The text as eSpeak NG takes it. Raises UserError for characters that it would spell or stop at."""
    if language == "ja":
        for written, read in _READINGS.items():
            text = text.replace(written, read)
        unread = next((letter for letter in text if "\u3400" <= letter <= "\u9fff"), None)
        if unread:
            raise UserError(f'"{unread}" in {text[:60]!r} is not read in Japanese: write it in kana')
    if "\0" in text:
        raise UserError(f"the text {text[:60]!r} holds a NUL character: leave it out")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UserError(f"the text {ascii(text[:60])} holds half a character: correct it") from None


def _synthesize(loader: Any, text: bytes, voice: str, speed: int, pitch: int) -> tuple[np.ndarray, int]:
    """int16 [samples] and their rate.

    The library is loaded anew for every text (6 ms): it keeps the phases of its oscillators from one text to the next,
    and nothing that it offers sets them back.
    """
    parts: list[np.ndarray] = []

    @_Callback
    def take(samples, count, events) -> int:
        if samples and count > 0:
            parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    try:
        library = ctypes.CDLL(loader.get_library_path())
    except OSError as error:
        raise UserError(f"eSpeak NG cannot be loaded ({error}): install espeakng-loader again") from None
    try:
        rate = library.espeak_Initialize(_SYNCHRONOUS, 0, loader.get_data_path().encode(), _DO_NOT_EXIT)
        if rate <= 0:
            raise UserError(
                f"eSpeak NG does not find its voices in {loader.get_data_path()}: install espeakng-loader again, in a "
                "folder whose path has fewer than 140 characters"
            )
        library.espeak_SetSynthCallback(take)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        ctypes.CDLL(None).srand(1)  # the noise of voices by Klatt's synthesis is of the C library's generator
        _expect(library.espeak_SetVoiceByName(voice.encode()), f"the voice {voice}")
        _expect(library.espeak_SetParameter(_SPEED, speed, 0), f"the speed {speed}")
        _expect(library.espeak_SetParameter(_PITCH, pitch, 0), f"the pitch {pitch}")
        size = ctypes.c_size_t(len(text) + 1)
        _expect(library.espeak_Synth(text, size, 0, _CHARACTERS, 0, _UTF8, None, None), "the text")
    finally:
        library.espeak_Terminate()
        _unload(library)
    return (np.concatenate(parts) if parts else np.zeros(0, np.int16)), rate


def _expect(status: int, what: str) -> None:
    if status != 0:
        raise UserError(f"eSpeak NG refuses {what} (error {status}): install espeakng-loader 0.2.4 again")


def _unload(library: ctypes.CDLL) -> None:
    import _ctypes  # ctypes itself has no name for it

    close = getattr(_ctypes, "dlclose", None) or _ctypes.FreeLibrary
    close(library._handle)


def _trimmed(samples: np.ndarray, rate: int) -> np.ndarray:
    """Without what is not loud at both ends; empty if nothing is."""
    loud = np.flatnonzero(np.abs(samples) > _SILENT * np.abs(samples).max(initial=0.0))
    if not len(loud):
        return samples[:0]
    margin = round(_MARGIN * rate)
    return samples[max(loud[0] - margin, 0) : loud[-1] + 1 + margin]
