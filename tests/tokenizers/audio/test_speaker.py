"""The speaker encoder: unit vectors of clips of any length, near each other where the voice is the same."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from ernie5.config.audio_networks import MelNetworkConfig, MelTrainConfig, SpeakerConfig
from ernie5.errors import UserError
from ernie5.tokenizers.audio.mel_network import stacked
from ernie5.tokenizers.audio.speaker import (
    SCALE,
    SpeakerEncoder,
    SpeakerLoss,
    equal_error_rate,
    train_speaker_encoder,
)

CONFIG = SpeakerConfig(network=MelNetworkConfig(sample_rate=800, bands=12, width=16, units=2), dim=8)


def spoken(pitch: float, rng: np.random.Generator) -> np.ndarray:
    """A voice of this pitch that says something: its tone comes and goes."""
    samples = int(rng.integers(200, 500))
    time = np.arange(samples) / 800
    swell = 1 + np.sin(2 * np.pi * rng.uniform(2, 6) * time + rng.uniform(0, 6))
    return (0.2 * swell * np.sin(2 * np.pi * pitch * time) + 0.01 * rng.standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize("samples", [1, 64, 65, 1000])
def test_vectors_have_unit_length(samples: int):
    vectors = SpeakerEncoder(CONFIG)(paddle.randn([3, samples]))
    np.testing.assert_allclose(vectors.norm(axis=-1).numpy(), np.ones(3), rtol=1e-5)
    assert vectors.shape == [3, 8]


def test_a_silent_clip_has_a_vector():
    assert np.isfinite(SpeakerEncoder(CONFIG).embed(np.zeros(100, np.float32))).all()


def test_a_clip_gives_alone_what_it_gives_in_a_batch():
    encoder, sounds = SpeakerEncoder(CONFIG), [np.random.randn(n).astype(np.float32) for n in (100, 640)]
    encoder.eval()
    together = encoder(paddle.to_tensor(stacked(sounds)), paddle.to_tensor([2, 10]))
    np.testing.assert_allclose(together.numpy(), [encoder.embed(sound) for sound in sounds], atol=1e-5)


def test_loss_is_the_softmax_of_scaled_cosines():
    loss, vectors = SpeakerLoss(3, 8), paddle.nn.functional.normalize(paddle.randn([4, 8]))
    directions = loss.directions.numpy().astype(np.float64)
    logits = SCALE * vectors.numpy() @ (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T
    speakers = [0, 2, 1, 1]
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(4), speakers]
    np.testing.assert_allclose(float(loss(vectors, paddle.to_tensor(speakers))), expected.mean(), rtol=1e-5)


def test_training_brings_a_voice_together_and_voices_apart():
    rng = np.random.default_rng(0)
    clips = [(spoken(pitch, rng), str(pitch)) for pitch in (60, 120, 200, 300) for _ in range(12)]
    encoder = train_speaker_encoder(
        clips[::2], CONFIG, MelTrainConfig(steps=60, batch_size=8, learning_rate=5e-3, log_steps=1000)
    )
    assert not encoder.training
    vectors, names = np.stack([encoder.embed(sound) for sound, _ in clips[1::2]]), [name for _, name in clips[1::2]]
    cosines, same = vectors @ vectors.T, np.equal.outer(names, names)
    assert cosines[same].min() > cosines[~same].max()


def test_one_speaker_is_refused():
    with pytest.raises(UserError, match="clips of 1 speakers: give those of at least 2"):
        train_speaker_encoder([(np.zeros(100, np.float32), "a")] * 2, CONFIG, MelTrainConfig())


def test_an_impossible_size_is_refused():
    config = SpeakerConfig(network=CONFIG.network, dim=0)
    with pytest.raises(UserError, match="dim is 0: must be 1 to 4096"):
        train_speaker_encoder([], config, MelTrainConfig())


def test_a_waveform_of_no_numbers_is_refused():
    with pytest.raises(UserError, match="no finite numbers"):
        SpeakerEncoder(CONFIG).embed(np.full(100, np.inf, np.float32))


def test_a_saved_encoder_gives_the_same(tmp_path: Path):
    encoder, sound = SpeakerEncoder(CONFIG), np.random.randn(300).astype(np.float32)
    encoder.eval()
    loaded = SpeakerEncoder.from_pretrained(encoder.save_pretrained(tmp_path))
    assert loaded.config == CONFIG
    np.testing.assert_array_equal(loaded.embed(sound), encoder.embed(sound))


def test_a_folder_of_another_size_is_refused(tmp_path: Path):
    SpeakerEncoder(CONFIG).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"dim": 16}))
    with pytest.raises(UserError, match="weights do not fit"):
        SpeakerEncoder.from_pretrained(tmp_path)


def test_equal_error_rate_is_where_both_errors_meet():
    angles = np.array([0.0, 0.1, 1.0, 1.1, 0.2])  # the last voice is the second's but near the first's
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert equal_error_rate(vectors[:4], ["a", "a", "b", "b"]) == 0
    # Pairs from near to far, with + the same voice: 1-2 + | 3-4 + | 2-5, 1-5 | 3-5 +, 2-3, 4-5 +, 1-3, 2-4, 1-4
    assert equal_error_rate(vectors, ["a", "a", "b", "b", "b"]) == pytest.approx(2 / 6)


@pytest.mark.parametrize("speakers", [["a", "a"], ["a", "b"]])
def test_an_equal_error_rate_needs_both_kinds_of_pairs(speakers: list[str]):
    with pytest.raises(UserError, match="equal error rate needs"):
        equal_error_rate(np.eye(2), speakers)
