"""The discriminators see what they must in clips of any length, and their losses are those of the papers."""

from dataclasses import replace

import numpy as np
import paddle
import pytest

from ernie5.config.audio_tokenizer import AudioAdversarialConfig
from ernie5.tokenizers.audio.discriminators import (
    AudioAdversary,
    PeriodDiscriminator,
    ResolutionDiscriminator,
    discriminator_loss,
    feature_distance,
    generator_loss,
)

CONFIG = AudioAdversarialConfig(weight=1.0, periods=(2, 3), resolutions=(64, 32), channels=4)
KINDS = ["hinge", "least_squares"]


def noise(clips: int = 2, samples: int = 200) -> paddle.Tensor:
    return 0.1 * paddle.randn([clips, samples])


@pytest.mark.parametrize("samples", [1, 2, 7, 63, 64, 65, 1000])
def test_a_clip_of_any_length_is_judged(samples: int):
    judgements = AudioAdversary(CONFIG)(noise(3, samples))
    assert len(judgements) == 4
    for judgement in judgements:
        assert judgement.scores.shape[0] == 3
        assert judgement.scores.isfinite().all()


def test_a_period_is_a_row_of_its_picture():
    picture = PeriodDiscriminator(3, 4).picture(paddle.arange(7, dtype="float32").unsqueeze(0))
    np.testing.assert_array_equal(picture[0, 0].numpy(), [[0, 1, 2], [3, 4, 5], [6, 0, 0]])


def test_columns_of_a_period_do_not_mix():
    judge, waveform = PeriodDiscriminator(5, 4), noise(1, 50)
    changed = waveform.clone()
    changed[0, 2::5] += 0.3
    moved = (judge(waveform).scores - judge(changed).scores).abs().sum(axis=[0, 1, 2]).numpy()
    assert moved[2] > 0
    assert not np.delete(moved, 2).any()


def test_a_resolution_shows_the_spectrogram():
    judge, waveform = ResolutionDiscriminator(32, 4), noise(1, 100)
    picture = judge.picture(waveform).numpy()[0]
    padded = np.pad(waveform.numpy()[0].astype(np.float64), 16, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(32) / 32)
    hann /= np.linalg.norm(hann)
    frames = [np.fft.rfft(padded[start : start + 32] * hann) for start in range(0, 101, 8)]
    np.testing.assert_allclose(picture[0], np.real(frames), atol=1e-6)
    np.testing.assert_allclose(picture[1], np.imag(frames), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_of_the_discriminators_is_that_of_their_scores(kind: str):
    adversary, real, fake = AudioAdversary(replace(CONFIG, loss=kind)), noise(), noise()
    expected = []
    for r, f in zip(adversary(real), adversary(fake), strict=True):
        r, f = (judgement.scores.numpy().astype(np.float64) for judgement in (r, f))
        if kind == "hinge":
            expected.append(np.maximum(1 - r, 0).mean() + np.maximum(1 + f, 0).mean())
        else:
            expected.append(((r - 1) ** 2).mean() + (f**2).mean())
    np.testing.assert_allclose(float(adversary.loss(real, fake)), np.mean(expected), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_the_generator_are_those_of_scores_and_features(kind: str):
    adversary, real, fake = AudioAdversary(replace(CONFIG, loss=kind)), noise(), noise()
    wanted, given = adversary(real), adversary(fake)
    scores = [one.scores.numpy().astype(np.float64) for one in given]
    adversarial = np.mean([-s.mean() if kind == "hinge" else ((s - 1) ** 2).mean() for s in scores])
    distances = [
        np.mean([np.abs(f.numpy() - r.numpy()).mean() for f, r in zip(a.features, b.features, strict=True)])
        for a, b in zip(given, wanted, strict=True)
    ]
    found = adversary.generator_losses(real, fake)
    np.testing.assert_allclose(float(found.adversarial), adversarial, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(float(found.features), np.mean(distances), rtol=1e-5)


def test_hinge_saturates_and_least_squares_does_not():
    sure = paddle.full([4], 3.0)
    assert float(discriminator_loss(sure, -sure, "hinge")) == 0
    assert float(discriminator_loss(sure, -sure, "least_squares")) == 4 + 9


def test_least_squares_asks_the_generator_for_one():
    assert float(generator_loss(paddle.ones([3]), "least_squares")) == 0


def test_layers_of_features_count_alike_whatever_their_size():
    small, large = paddle.zeros([1, 2]), paddle.zeros([1, 200])
    assert float(feature_distance([small, large], [small + 1, large + 3])) == pytest.approx(2)


@pytest.mark.parametrize("field", ["adversarial", "features"])
def test_gradients_of_the_generator_reach_every_sample(field: str):
    real, fake = noise(), noise()
    fake.stop_gradient = False
    getattr(AudioAdversary(CONFIG).generator_losses(real, fake), field).backward()
    assert (fake.grad.abs() > 0).all()


def test_loss_of_the_discriminators_does_not_reach_the_waveform():
    real, fake = noise(), noise()
    real.stop_gradient = fake.stop_gradient = False
    AudioAdversary(CONFIG).loss(real, fake).backward()
    assert real.grad is None and fake.grad is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("judges", [{"periods": ()}, {"resolutions": ()}], ids=["resolutions", "periods"])
def test_discriminators_learn_to_tell_a_tone_from_noise(kind: str, judges: dict[str, tuple]):
    adversary = AudioAdversary(replace(CONFIG, loss=kind, **judges))
    optimizer = paddle.optimizer.Adam(3e-3, 0.8, 0.99, parameters=adversary.parameters())
    phases = 6.28 * paddle.rand([8, 1])
    real, fake = 0.15 * (0.6 * paddle.arange(200, dtype="float32") + phases).sin(), noise(8)

    def apart() -> float:
        return min(
            float(r.scores.mean() - f.scores.mean()) for r, f in zip(adversary(real), adversary(fake), strict=True)
        )

    before = apart()
    for _ in range(40):
        adversary.loss(real, fake).backward()
        optimizer.step()
        optimizer.clear_grad()
    assert apart() > before + 0.3
