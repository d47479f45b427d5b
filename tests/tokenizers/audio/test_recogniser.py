"""The recogniser: CTC is a sum over alignments, decoding undoes it, and training makes it read tones."""

import itertools
import json
import logging
from pathlib import Path

import numpy as np
import paddle
import pytest

from ernie5.config.audio_networks import MelNetworkConfig, RecogniserConfig, RecogniserTrainConfig, check_recogniser
from ernie5.errors import UserError
from ernie5.tokenizers.audio.recogniser import (
    Recogniser,
    ctc_loss,
    edits,
    error_rate,
    states_needed,
    train_recogniser,
)
from ernie5.tokenizers.audio.teacher import Teacher

NETWORK = MelNetworkConfig(sample_rate=800, bands=12, width=24, units=2)
CONFIG = RecogniserConfig(network=NETWORK, symbols=("a", "b", "c"))
PITCHES = {"a": 120, "b": 200, "c": 300}
FRAME = 64


def said(text: str, rng: np.random.Generator) -> np.ndarray:
    """A tone of two frames for each symbol, a pause of one behind it, and noise."""
    time = np.arange(2 * FRAME) / 800
    parts = [np.pad(0.3 * np.sin(2 * np.pi * PITCHES[symbol] * time), [0, FRAME]) for symbol in text]
    sound = np.concatenate([np.zeros(FRAME), *parts])
    return (sound + 0.01 * rng.standard_normal(len(sound))).astype(np.float32)


def collapsed(path: tuple[int, ...]) -> list[int]:
    """An alignment without repeats and then without blanks."""
    return [symbol for symbol, _ in itertools.groupby(path) if symbol]


def minus_log_likelihood(logits: np.ndarray, labels: list[int]) -> float:
    """From the sum of the probabilities of every alignment, [time, symbols]."""
    shares = np.exp(logits.astype(np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    paths = itertools.product(range(logits.shape[1]), repeat=len(logits))
    fitting = [path for path in paths if collapsed(path) == labels]
    return -np.log(sum(np.prod(shares[np.arange(len(path)), path]) for path in fitting))


@pytest.mark.parametrize("labels", [[1], [1, 2], [2, 2], [1, 2, 1]])
def test_ctc_is_the_sum_over_alignments(labels: list[int]):
    logits = paddle.randn([1, 5, 3])
    expected = minus_log_likelihood(logits.numpy()[0], labels) / len(labels)
    np.testing.assert_allclose(float(ctc_loss(logits, paddle.to_tensor([5]), [labels])), expected, rtol=1e-5)


def test_ctc_of_a_batch_counts_labels_alike_and_no_time_behind_a_clip():
    logits, labels, lengths = paddle.randn([2, 6, 3]), [[1, 2], [2]], [6, 3]
    alone = [minus_log_likelihood(x[:n], y) for x, n, y in zip(logits.numpy(), lengths, labels, strict=True)]
    found = float(ctc_loss(logits, paddle.to_tensor(lengths), labels))
    np.testing.assert_allclose(found, sum(alone) / 3, rtol=1e-5)


def test_gradient_of_ctc_is_that_of_finite_differences():
    logits, labels = paddle.randn([1, 4, 3]), [1, 1]
    logits.stop_gradient = False
    ctc_loss(logits, paddle.to_tensor([4]), [labels]).backward()
    values, step = logits.numpy()[0].astype(np.float64), 1e-5
    for position in np.ndindex(4, 3):
        higher, lower = values.copy(), values.copy()
        higher[position] += step
        lower[position] -= step
        slope = (minus_log_likelihood(higher, labels) - minus_log_likelihood(lower, labels)) / (4 * step)
        assert float(logits.grad[0, position[0], position[1]]) == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize("labels", [[], [1], [1, 2], [1, 1], [1, 1, 1], [1, 2, 2, 1]])
def test_states_needed_are_those_of_the_shortest_alignment(labels: list[int]):
    shortest = next(
        time for time in range(9) if any(collapsed(p) == labels for p in itertools.product(range(3), repeat=time))
    )
    assert states_needed(labels) == shortest


def test_greedy_text_leaves_out_repeats_and_blanks():
    recogniser, path = Recogniser(CONFIG), [0, 1, 1, 0, 1, 2, 2, 3, 0, 0, 3, 0]
    recogniser.forward = lambda _: paddle.nn.functional.one_hot(paddle.to_tensor([path]), 4)
    assert recogniser.transcribe(np.zeros(3 * FRAME, np.float32)) == "aabcc"


def test_text_begins_with_the_first_state():
    recogniser = Recogniser(CONFIG)
    recogniser.forward = lambda _: paddle.nn.functional.one_hot(paddle.to_tensor([[2, 2, 0, 1]]), 4)
    assert recogniser.transcribe(np.zeros(FRAME, np.float32)) == "ba"


def test_features_are_the_heads_input_averaged_over_a_frame():
    recogniser, waveform = Recogniser(CONFIG), paddle.randn([2, 5 * FRAME + 1])
    recogniser.eval()
    teacher: Teacher = recogniser
    features = teacher.features(waveform)
    assert features.shape == [2, 6, teacher.dim]
    assert features.stop_gradient
    means = recogniser(waveform).reshape([2, 6, 4, 4]).mean(axis=2)  # the head is linear: it and the mean change places
    np.testing.assert_allclose(recogniser.head(features).numpy(), means.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("found", "expected", "distance"),
    [("", "", 0), ("abc", "abc", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2)],
)
def test_edits_are_the_fewest(found: str, expected: str, distance: int):
    assert edits(found, expected) == distance


def test_error_rate_is_of_all_clips_together_in_any_unit():
    assert error_rate(["ab", "c"], ["abcd", "c"]) == pytest.approx(2 / 5)
    assert error_rate([["one", "two"]], [["one", "too"]]) == pytest.approx(1 / 2)


def test_error_rate_of_nothing_is_refused():
    with pytest.raises(UserError, match="empty transcripts"):
        error_rate(["a"], [""])


def test_training_makes_it_read_what_it_has_not_heard():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abc"), rng.integers(1, 4))) for _ in range(60)]
    clips = [(said(text, rng), text) for text in texts]
    train = RecogniserTrainConfig(steps=160, batch_size=8, learning_rate=5e-3, speeds=(0.9, 1.1), log_steps=1000)
    recogniser = train_recogniser(clips[:50], NETWORK, train)
    assert not recogniser.training
    assert error_rate([recogniser.transcribe(sound) for sound, _ in clips[50:]], texts[50:]) < 0.1


def test_clips_without_text_or_time_for_it_are_left_out(caplog):
    rng = np.random.default_rng(0)
    silent = (np.zeros(640, np.float32), "")
    clips = [(said("ab", rng), "ab"), (np.zeros(10, np.float32), "abcabc"), (np.zeros(0, np.float32), "a"), silent]
    with caplog.at_level(logging.WARNING):
        train_recogniser(clips, NETWORK, RecogniserTrainConfig(steps=1, batch_size=2))
    assert "3 clips have no text or are too short" in caplog.text


def test_training_on_no_fitting_clip_is_refused():
    with pytest.raises(UserError, match="none of 1 clips has text and is long enough"):
        train_recogniser([(np.zeros(10, np.float32), "abcabc")], NETWORK, RecogniserTrainConfig(steps=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0, "weight_decay": -1.0}, "steps is 0: must be above 0; weight_decay is -1.0: must not be negative"),
        ({"speeds": (2.0, 1.0)}, r"speeds is \[2.0, 1.0\]"),
        ({"hidden_bands": 1.5}, "hidden_bands is 1.5: must lie between 0 and 1"),
    ],
)
def test_impossible_training_is_refused(changes: dict[str, object], message: str):
    with pytest.raises(UserError, match=message):
        train_recogniser([(np.zeros(640, np.float32), "a")], NETWORK, RecogniserTrainConfig(**changes))


@pytest.mark.parametrize(
    ("network", "symbols", "message"),
    [
        ({"sample_rate": 8050}, ("a",), "sample_rate is 8050: must be a multiple of 100"),
        ({"width": 0}, ("a",), "width is 0: must be 1 to 4096"),
        ({}, (), "symbols is empty"),
        ({}, ("a", "a"), "give single characters, each once"),
        ({}, ("ab",), "give single characters, each once"),
    ],
)
def test_impossible_settings_are_refused(network: dict[str, int], symbols: tuple[str, ...], message: str):
    config = RecogniserConfig(network=MelNetworkConfig(**{"sample_rate": 8000} | network), symbols=symbols)
    with pytest.raises(UserError, match=f"here: .*{message}"):
        check_recogniser(config, "here")


@pytest.mark.parametrize("waveform", [paddle.zeros([5]), paddle.zeros([1, 0]), paddle.full([1, 9], float("nan"))])
def test_what_is_no_waveform_is_refused(waveform: paddle.Tensor):
    with pytest.raises(UserError, match="a waveform"):
        Recogniser(CONFIG).features(waveform)


def test_a_saved_recogniser_hears_the_same(tmp_path: Path):
    recogniser, waveform = Recogniser(CONFIG), paddle.randn([1, 640])
    recogniser.eval()
    loaded = Recogniser.from_pretrained(recogniser.save_pretrained(tmp_path))
    assert loaded.config == CONFIG
    np.testing.assert_array_equal(loaded(waveform).numpy(), recogniser(waveform).numpy())


def test_a_folder_of_other_sizes_is_refused(tmp_path: Path):
    Recogniser(CONFIG).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["network"]["width"] = 32
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="weights do not fit"):
        Recogniser.from_pretrained(tmp_path)


def test_a_clip_without_a_label_is_refused():
    with pytest.raises(ValueError, match="a clip has no label"):
        ctc_loss(paddle.zeros([2, 4, 3]), paddle.to_tensor([4, 4]), [[1], []])
