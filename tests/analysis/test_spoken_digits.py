"""The judge of spoken digits: what it learns from, that it learns, and how its errors are counted."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from ernie5.analysis import spoken_digits
from ernie5.analysis.spoken_digits import SpeechJudge, as_digits, judge_clips, spoken_digit_error
from ernie5.analysis.spoken_phrases import BANDS, FLOOR, MULTIPLE, Variety, log_mel, practice
from ernie5.config.audio_networks import MelNetworkConfig, MelTrainConfig
from ernie5.data.sounds import write_sound
from ernie5.errors import UserError

RATE = 8_000
PITCHES = {"0": 300, "1": 900, "7": 2000}
NETWORK = MelNetworkConfig(sample_rate=RATE, bands=BANDS, width=24, units=2)
TRAINING = MelTrainConfig(steps=120, batch_size=8, learning_rate=5e-3, dropout=0.0)
MILD = Variety(speed=1.05, formants=0.02, hidden_bands=0.0)


def tone(digit: str, seconds: float = 0.3, loudness: float = 0.3) -> np.ndarray:
    """A digit of a language of three tones, float32 [samples]."""
    time = np.arange(round(seconds * RATE)) / RATE
    return (loudness * np.sin(2 * np.pi * PITCHES[digit] * time)).astype(np.float32)


def said(digits: str, **how: float) -> np.ndarray:
    """Tones with pauses of 0.1 s behind them."""
    return np.concatenate([np.pad(tone(digit, **how), (0, RATE // 10)) for digit in digits])


CLIPS = [(tone(digit, seconds), digit) for digit in PITCHES for seconds in (0.25, 0.3, 0.4)]


@pytest.fixture(scope="module")
def judge() -> SpeechJudge:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spoken_digits, "NETWORK", NETWORK)
        return SpeechJudge.train(CLIPS, config=TRAINING, variety=MILD)


class Answers:
    """Stands for a judge: hears what it is told."""

    def __init__(self, *answers: str):
        self._answers = iter(answers)

    def digits(self, waveform: np.ndarray) -> str:
        return next(self._answers)


@pytest.mark.parametrize("digits", ["0", "1", "7", "17", "700", "0171"])
def test_judge_hears_digits_and_phrases(judge: SpeechJudge, digits: str):
    assert judge.digits(said(digits)) == digits


@pytest.mark.parametrize("loudness", [0.003, 0.9])
def test_judge_hears_soft_and_loud_clips(judge: SpeechJudge, loudness: float):
    assert judge.digits(said("170", loudness=loudness)) == "170"


@pytest.mark.parametrize("waveform", [np.zeros(0), np.zeros(RATE), tone("7")[:80], tone("7") * 1e-4])
def test_nothing_is_heard_in_silence_or_a_click(judge: SpeechJudge, waveform: np.ndarray):
    assert judge.digits(waveform) == ""


@pytest.mark.parametrize("waveform", [np.zeros((1, 99)), np.full(RATE, np.nan), np.zeros(RATE, np.int16)])
def test_what_is_no_clip_is_refused(judge: SpeechJudge, waveform: np.ndarray):
    with pytest.raises(UserError, match="give finite floats"):
        judge.digits(waveform)


def test_speeds_that_disagree_are_settled_by_their_joint_likelihood(
    judge: SpeechJudge, monkeypatch: pytest.MonkeyPatch
):
    def logits(*shares: float) -> np.ndarray:  # of blank, "0" and "1" in one state
        rest = np.full(8, 1e-9)
        return np.log(np.concatenate([shares, rest]))[None].astype(np.float32)

    heard = iter([logits(0.1, 0.4, 0.5), logits(0.1, 0.4, 0.5), logits(0.05, 0.9, 0.05)])
    monkeypatch.setattr(judge, "_hear", lambda _: next(heard))
    assert judge.digits(said("1")) == "0"  # 0.4 * 0.4 * 0.9 against 0.5 * 0.5 * 0.05


def test_same_seed_gives_the_same_judge_and_leaves_the_others_chance_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spoken_digits, "NETWORK", NETWORK)
    config = MelTrainConfig(steps=2, batch_size=4)
    paddle.seed(5)
    expected = paddle.rand([1]).item()
    weights = []
    for _ in range(2):
        paddle.seed(5)
        trained = SpeechJudge.train(CLIPS, seed=1, config=config)
        assert paddle.rand([1]).item() == expected
        weights.append(trained._recogniser.head.weight.numpy())
    np.testing.assert_array_equal(*weights)


def test_saved_judge_hears_the_same(judge: SpeechJudge, tmp_path: Path):
    loaded, sound = SpeechJudge.load(judge.save(tmp_path)), said("71")
    np.testing.assert_array_equal(loaded._hear(sound), judge._hear(sound))


def test_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "ernie5_recogniser"}')
    with pytest.raises(UserError, match="not of an ernie5 judge of spoken digits"):
        SpeechJudge.load(tmp_path)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "no clip"),
        ([(tone("7"), "")], 'clip 0 says ""'),
        ([(tone("7"), "7"), (tone("7"), "seven")], 'clip 1 says "seven"'),
        ([(tone("7"), "7777")], "0.1 s or more a digit"),
    ],
)
def test_clips_that_cannot_be_learned_are_refused(clips: list, message: str):
    with pytest.raises(UserError, match=message):
        SpeechJudge.train(clips)


def test_error_counts_clips_and_edits():
    error = spoken_digit_error(Answers("7", "4", "479"), [np.zeros(1)] * 3, ["7", "47", "58"])
    assert (error.clips, error.wrong, error.digits) == (3, 2 / 3, 4 / 5)


def test_error_of_nothing_is_refused():
    with pytest.raises(UserError, match="no digit is expected"):
        spoken_digit_error(Answers(), [], [])


@pytest.mark.parametrize(
    ("text", "digits"),
    [("seven", "7"), ("Four seven", "47"), ("three plus four", ""), ("sieben", ""), ("", "")],
)
def test_number_words_are_digits(text: str, digits: str):
    assert as_digits(text) == digits


def test_judge_learns_from_its_own_share_of_english_digits(tmp_path: Path):
    rows = []
    for number, (text, language, split) in enumerate(
        [
            ("seven", "en", "judge"),
            ("one seven", "en", "judge"),
            ("one plus seven", "en", "judge"),
            ("seven", "en", "train"),
            ("seven", "en", "test"),
            ("sieben", "de", "judge"),
            ("six", "fr", "judge"),
        ]
    ):
        write_sound(tmp_path / f"{number}.wav", tone("7", 0.2 + number / 100), RATE)
        rows.append({"sound": f"{number}.wav", "text": text, "language": language, "split": split})
    found = judge_clips(json.loads(json.dumps(rows)), tmp_path)
    assert [(len(sound), digits) for sound, digits in found] == [(1600, "7"), (1680, "17")]


def test_judge_learns_from_no_recording_of_the_speaker_who_is_held_out(tmp_path: Path):
    for take in range(5):
        for speaker, digit in (("ann", 0), ("bob", 1), ("eve", 7)):
            write_sound(tmp_path / f"{digit}_{speaker}_{take}.wav", tone(str(digit)), RATE)
    found = judge_clips(recordings=str(tmp_path), held_out="eve")
    assert [digits for _, digits in found] == ["0", "0", "1", "1"]  # 0.4 of five takes each


def test_spectrogram_knows_neither_loudness_nor_microphone():
    rng = np.random.default_rng(0)
    sound = rng.standard_normal(RATE) * np.linspace(0.5, 1, RATE)
    mel = log_mel(sound, RATE)
    assert mel.shape == (-(-RATE // (160 * MULTIPLE)) * MULTIPLE, BANDS)
    np.testing.assert_allclose(log_mel(0.01 * sound, RATE), mel, atol=1e-3)
    np.testing.assert_allclose(mel.mean(axis=0), 0, atol=1e-5)


def test_spectrogram_of_a_tone_is_highest_in_its_band_and_time():
    mel = log_mel(np.concatenate([np.zeros(RATE // 2), tone("7", 0.5)]).astype(np.float32), RATE)
    highest = 2595 * np.log10(1 + RATE / 2 / 700)
    band = 2595 * np.log10(1 + PITCHES["7"] / 700) / highest * (BANDS + 1) - 1
    assert mel[30:48].mean(axis=0).argmax() == round(band)
    assert np.ptp(mel) < -np.log(FLOOR / (1 + FLOOR)) + 1e-4


def test_phrases_say_what_their_clips_do():
    batches = practice(CLIPS, 4, RATE, Variety(phrases=1.0), np.random.default_rng(0))
    phrases = [phrase for _, batch in zip(range(8), batches, strict=False) for phrase in batch]
    assert {len(phrase.digits) for phrase in phrases} == {2, 3}
    for phrase in phrases:
        assert phrase.mel.dtype == np.float32
        assert phrase.mel.shape[1] == BANDS and len(phrase.mel) % MULTIPLE == 0
        assert len(phrase.mel) * 0.02 >= len(phrase.digits) * 0.25 / 1.25
