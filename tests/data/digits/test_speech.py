import hashlib
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from ernie5.data.digits.speech import LANGUAGES, SPEAKERS, speak, split_speakers
from ernie5.data.digits.texts import NUMBER_WORDS
from ernie5.errors import UserError

loader = pytest.importorskip("espeakng_loader")
pytest.importorskip("soxr")

RATE = 8_000
SIZES = {"judge": 14, "test": 9, "validation": 4, "train": 28}
# The split decides who may hear whom; were it to move, results would no longer compare and voices would leak.
SPLIT = "09e3b748952de5ce"


def level(samples):
    """Root mean square."""
    return np.sqrt((samples**2).mean())


def fundamental(samples, lowest=60, highest=400):
    """Hertz, by the peak of the autocorrelation of the loudest tenth of a second, the formants filtered out."""
    window = RATE // 10
    samples = np.convolve(samples, np.hanning(RATE // 250), "same")
    energy = np.convolve(samples**2, np.ones(window), "valid")
    loudest = samples[energy.argmax() :][:window]
    correlation = np.correlate(loudest, loudest, "full")[window - 1 :]
    lags = np.arange(RATE // highest, RATE // lowest)
    return RATE / lags[correlation[lags].argmax()]


def test_speech_is_a_waveform_at_the_wanted_rate():
    lengths = {}
    for rate in (8_000, 16_000, 24_000):
        samples = speak("one two three", "en", "m1", rate)
        assert samples.dtype == np.float32 and samples.ndim == 1
        assert 0.1 < np.abs(samples).max() <= 1
        lengths[rate] = len(samples) / rate
    assert 0.5 < lengths[8_000] < 1.5
    np.testing.assert_allclose(list(lengths.values()), lengths[8_000], atol=2e-4)


def test_every_number_word_is_spoken_and_sounds_unlike_the_others():
    for language, words in NUMBER_WORDS.items():
        spoken = [speak(word, language, "m3", RATE) for word in words]
        assert all(0.1 < len(samples) / RATE < 1 for samples in spoken), language
        assert len({samples.tobytes() for samples in spoken}) == 10, language


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_speaker_is_there(speaker):
    assert os.path.isfile(os.path.join(loader.get_data_path(), "voices", "!v", speaker))


def test_no_speaker_is_silent_or_noise_of_full_scale():
    for speaker in SPEAKERS:
        assert 0.02 < level(speak("seven", "en", speaker, RATE)) < 0.35, speaker


def test_silence_is_trimmed_from_both_ends():
    samples = speak("seven", "en", "m1", RATE)
    edge = RATE // 100  # the margin that is left
    loud = np.flatnonzero(np.abs(samples) > 0.003 * np.abs(samples).max())
    assert loud[0] <= edge + 2 and len(samples) - loud[-1] <= edge + 3


def test_speech_is_the_same_whatever_was_said_before():
    first = speak("seven five", "en", "m3", RATE)
    speak("drei", "de", "f2", RATE, speed=300, pitch=90)
    np.testing.assert_array_equal(speak("seven five", "en", "m3", RATE), first)


def test_speech_is_the_same_in_another_process():
    program = (
        "import hashlib; from ernie5.data.digits.speech import speak;"
        "import sys; sys.stdout.write(hashlib.sha256(speak('four', 'fr', 'f3', 8000).tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == hashlib.sha256(speak("four", "fr", "f3", RATE).tobytes()).hexdigest()


def test_speech_is_the_same_from_many_threads():
    words = NUMBER_WORDS["en"][:6]
    alone = [speak(word, "en", "m1", RATE) for word in words]
    together = [None] * len(words)

    def run(place):
        together[place] = speak(words[place], "en", "m1", RATE)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(words))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_speed_shortens_speech():
    slow, normal, fast = (len(speak("one two three four", "en", "m1", RATE, speed=speed)) for speed in (90, 175, 350))
    assert slow > 1.3 * normal > 1.3 * 1.3 * fast


def test_pitch_raises_the_voice():
    low, high = (fundamental(speak("nine", "en", "f1", RATE, pitch=pitch)) for pitch in (20, 80))
    assert high > 1.2 * low


def test_languages_and_speakers_differ():
    spoken = {speak("7", language, speaker, RATE).tobytes() for language in LANGUAGES for speaker in ("m1", "f2")}
    assert len(spoken) == 2 * len(LANGUAGES)


def test_japanese_characters_of_the_digit_world_are_read():
    np.testing.assert_array_equal(speak("七", "ja", "m1", RATE), speak("なな", "ja", "m1", RATE))
    np.testing.assert_array_equal(speak("この数字は？", "ja", "m1", RATE), speak("このすうじは？", "ja", "m1", RATE))


def test_markup_is_no_command():
    assert len(speak("<break time='9s'/>one", "en", "m1", RATE)) > 2 * len(speak("one", "en", "m1", RATE))


def test_speakers_are_shared_out_once():
    split = split_speakers()
    assert {name: len(speakers) for name, speakers in split.items()} == SIZES
    assert sorted(name for speakers in split.values() for name in speakers) == sorted(SPEAKERS)


def test_split_of_speakers_is_fixed():
    assert hashlib.sha256(repr(sorted(split_speakers().items())).encode()).hexdigest()[:16] == SPLIT


def test_every_split_has_high_and_low_voices():
    for speakers in split_speakers().values():
        heights = [fundamental(speak("nine", "en", speaker, RATE)) for speaker in speakers]
        assert min(heights) < 100 and max(heights) > 140


@pytest.mark.parametrize(
    "change, told",
    [
        ({"text": ""}, "says nothing"),
        ({"text": " ...\n"}, "says nothing"),
        ({"text": "one\0two"}, "NUL"),
        ({"text": "\ud800"}, "half a character"),
        ({"text": "字", "language": "ja"}, "write it in kana"),
        ({"language": "tlh"}, "use one of en, de"),
        ({"speaker": "nobody"}, "use one of f1, f2"),
        ({"speed": 20}, "give 80 to 450"),
        ({"speed": 500}, "give 80 to 450"),
        ({"pitch": 100}, "give 0 to 99"),
    ],
)
def test_what_cannot_be_spoken_is_refused(change, told):
    with pytest.raises(UserError, match=told) as caught:
        speak(**{"text": "one", "language": "en", "speaker": "m1", "sample_rate": RATE, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", ["espeakng_loader", "soxr"])
def test_missing_synthesizer_is_told(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match="pip install 'ernie5\\[data\\]'"):
        speak("one", "en", "m1", RATE)


def test_missing_voices_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(loader, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(UserError, match="install espeakng-loader again"):
        speak("one", "en", "m1", RATE)


def test_missing_library_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(loader, "get_library_path", lambda: str(tmp_path / "libespeak-ng.so"))
    with pytest.raises(UserError, match="cannot be loaded"):
        speak("one", "en", "m1", RATE)


def test_a_voice_of_noise_says_the_same_again():
    first = speak("seven", "en", "Reed", 8000)
    speak("one", "en", "Reed", 8000)
    np.testing.assert_array_equal(speak("seven", "en", "Reed", 8000), first)
