import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ernie5.data.digits import bank
from ernie5.data.digits.bank import SAMPLE_RATE, SpeechConfig, check_speech, make_bank, num_sounds, spoken_text
from ernie5.data.digits.speech import split_speakers
from ernie5.data.sounds import read_sound, write_sound
from ernie5.data.transcripts import read_index
from ernie5.errors import UserError

pytest.importorskip("espeakng_loader")
pytest.importorskip("soxr")
pytest.importorskip("soundfile")

TINY = SpeechConfig(renditions=2, speakers=1)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Tones of 0.1 s at 16 kHz for words, their loudness by speaker."""
    folder = tmp_path_factory.mktemp("recordings")
    for digit in range(10):
        for speaker, level in (("ann", 0.9), ("bob", 0.4), ("paul", 0.2)):
            for take in range(4):
                tone = level * np.sin(np.arange(1_600) * (0.05 + 0.02 * digit))
                write_sound(folder / f"{digit}_{speaker}_{take}.wav", tone, 16_000)
    return str(folder)


def make(folder: Path, config: SpeechConfig, seed: int = 0) -> list:
    return make_bank(folder, config, seed, lambda n: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, recordings: str) -> tuple[Path, list]:
    folder = tmp_path_factory.mktemp("bank")
    return folder, make(folder, replace(TINY, recordings=recordings))


def test_every_speaker_says_every_digit_as_often_as_wanted(made):
    said = [sound for sound in made[1] if sound.source == "espeak" and sound.form == "digit"]
    for split, speakers in split_speakers().items():
        texts = [sound.text for sound in said if sound.split == split]
        assert sorted(texts) == sorted(2 * [spoken_text("digit", (d,), "en") for d in range(10)])
        assert {sound.speaker for sound in said if sound.split == split} == {speakers[0]}


def test_without_a_limit_all_speakers_speak():
    everyone = sum(map(len, split_speakers().values()))
    assert num_sounds(SpeechConfig(renditions=1)) == everyone * (10 + bank.SUMS + bank.PAIRS)
    assert num_sounds(SpeechConfig(renditions=3, languages=("en", "de"))) == everyone * 2 * (
        30 + bank.SUMS + bank.PAIRS
    )


def test_sounds_are_what_their_words_say(made):
    folder, sounds = made
    for sound in sounds:
        if sound.source == "espeak":
            assert sound.text == spoken_text(sound.form, sound.digits, "en")
            samples = read_sound(str(folder / sound.path), SAMPLE_RATE, 2.0)
            # The shortest digit at full speed; a phrase is longer than the shortest.
            assert len(samples) > (0.1 if sound.form == "digit" else 0.3) * SAMPLE_RATE
            assert 0.05 < np.abs(samples).max() <= 1


def test_renditions_differ(made):
    folder, sounds = made
    sevens = [(folder / s.path).read_bytes() for s in sounds if s.text == "seven" and s.split == "train"]
    assert len(set(sevens[:2])) == 2


def test_speed_pitch_and_loudness_vary_within_their_bounds():
    made = bank._renditions(SpeechConfig(), 0)
    for (low, high), values in (
        (bank.SPEEDS, [rendition.speed for rendition in made]),
        (bank.PITCHES, [rendition.pitch for rendition in made]),
        (bank.LEVELS, [rendition.level for rendition in made]),
    ):
        assert low <= min(values) < low + 0.1 * (high - low) and high - 0.1 * (high - low) < max(values) <= high


@pytest.mark.parametrize(
    "form, digits, language, text",
    [
        ("digit", (7,), "en", "seven"),
        ("sum", (3, 4), "en", "three plus four"),
        ("pair", (4, 7), "en", "four seven"),
        ("sum", (1, 0), "es", "uno más cero"),
        ("sum", (3, 4), "zh", "三加四"),
        ("pair", (4, 7), "de", "vier sieben"),
    ],
)
def test_words_of_a_phrase(form: str, digits: tuple, language: str, text: str):
    assert spoken_text(form, digits, language) == text


def test_the_index_is_read_and_names_every_sound(made):
    folder, sounds = made
    lines = read_index(str(folder / "sounds.jsonl"))
    assert [(line.text, line.speaker, line.split) for line in lines] == [(s.text, s.speaker, s.split) for s in sounds]
    record = json.loads((folder / "sounds.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert record == {
        "sound": sounds[0].path,
        "text": "zero",
        "language": "en",
        "speaker": sounds[0].speaker,
        "split": "judge",
        "source": "espeak",
    }


def test_a_speaker_is_held_out_from_all_but_the_test(made):
    recorded = [sound for sound in made[1] if sound.source == "recorded"]
    assert len(recorded) == 120
    assert {sound.speaker for sound in recorded if sound.split == "test"} == {"recorded_ann"}
    assert "recorded_ann" not in {sound.speaker for sound in recorded if sound.split != "test"}
    assert {sound.split for sound in recorded} >= {"train", "judge", "test"}


def test_another_speaker_can_be_held_out(recordings: str):
    found = bank._recordings(replace(TINY, recordings=recordings, held_out="paul"))
    assert {sound.speaker for sound, _ in found if sound.split == "test"} == {"recorded_paul"}


def test_recordings_are_resampled_and_keep_their_words_and_loudness(made):
    folder, sounds = made
    sound = next(s for s in sounds if s.speaker == "recorded_bob" and s.digits == (3,))
    assert (sound.text, sound.language) == ("three", "en")
    expected = 0.4 * np.sin(2 * np.arange(800) * (0.05 + 0.02 * 3))
    samples = read_sound(str(folder / sound.path), SAMPLE_RATE, 1.0)
    np.testing.assert_allclose(samples[50:-50], expected[50:-50], atol=0.01)


def test_a_seed_makes_the_same_bank_again_and_another_one_another(tmp_path: Path):
    config = replace(TINY, renditions=1)
    contents = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        sounds = make(tmp_path / name, config, seed)
        contents.append([(tmp_path / name / sound.path).read_bytes() for sound in sounds])
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize(
    "change, told",
    [
        ({"languages": ("en", "nl")}, 'the language "nl" is not spoken'),
        ({"languages": ("en", "en")}, "each once"),
        ({"languages": ()}, "at least one"),
        ({"renditions": 0}, "renditions is 0"),
        ({"speakers": -1}, "speakers is -1"),
        ({"recorded_share": 1.5}, "recorded_share is 1.5"),
        ({"held_out": "ann"}, "there are no recordings"),
        ({"recordings": "no/such/folder"}, "No such file"),
    ],
)
def test_a_bank_that_cannot_be_made_is_refused(change: dict, told: str):
    with pytest.raises(UserError, match=told):
        check_speech(replace(TINY, **change))


def test_unknown_speaker_cannot_be_held_out(recordings: str):
    with pytest.raises(UserError, match="hold out one of ann, bob, paul"):
        check_speech(replace(TINY, recordings=recordings, held_out="zoe"))
