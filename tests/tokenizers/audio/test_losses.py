"""Losses and measures against SciPy and NumPy."""

import numpy as np
import paddle
import pytest

from ernie5.config.audio_tokenizer import AudioLossConfig
from ernie5.tokenizers.audio.losses import (
    FLOOR,
    magnitudes,
    mel_bands,
    mel_bank,
    mel_distance,
    reconstruction_losses,
    scale_invariant_ratio,
)

RATE, SAMPLES = 8000, 1000
signal = pytest.importorskip("scipy.signal")


@pytest.fixture
def sounds() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return tuple(rng.uniform(-0.5, 0.5, (2, SAMPLES)).astype(np.float32) for _ in range(2))


def scipy_magnitudes(waveform: np.ndarray, window: int) -> np.ndarray:
    """By SciPy in float64: mirrored at the ends, a periodic Hann window of energy 1."""
    hann = signal.get_window("hann", window)
    hann /= np.sqrt((hann**2).sum())
    padded = np.pad(waveform.astype(np.float64), [(0, 0), (window // 2, window // 2)], mode="reflect")
    transform = signal.ShortTimeFFT(hann, hop=window // 4, fs=1.0, fft_mode="onesided", phase_shift=None)
    frames = 1 + waveform.shape[1] // (window // 4)
    first = (window // 2) // (window // 4)  # SciPy's slice 0 is centred at sample 0 of what it is given
    return np.abs(transform.stft(padded, p0=first, p1=first + frames))


def htk(frequency: float) -> float:
    return 2595 * np.log10(1 + frequency / 700)


@pytest.mark.parametrize("window", [16, 64, 512])
def test_magnitudes_are_those_of_scipy(sounds, window):
    found = magnitudes(paddle.to_tensor(sounds[0]), window).numpy()
    np.testing.assert_allclose(found, scipy_magnitudes(sounds[0], window), rtol=1e-4, atol=2e-5)


def test_noise_is_as_high_in_every_window():
    noise = paddle.randn([1, 20_000]) * 0.3
    heights = [float(magnitudes(noise, window).square().mean()) for window in (64, 512, 2048)]
    np.testing.assert_allclose(heights, 0.09, rtol=0.05)


def test_spectral_losses_are_those_of_scipys_magnitudes(sounds):
    config = AudioLossConfig(waveform=0.5, log_magnitude=2.0, convergence=3.0, mel=4.0, windows=(256, 64), mel_bands=20)
    losses = reconstruction_losses(*map(paddle.to_tensor, sounds), RATE, config)
    expected = {"log_magnitude": [], "convergence": [], "mel": []}
    for window in config.windows:
        a, b = (scipy_magnitudes(sound, window) for sound in sounds)
        bank = mel_bank(RATE, window, mel_bands(20, window, 256)).numpy().astype(np.float64)
        expected["log_magnitude"].append(np.abs(np.log(a + FLOOR) - np.log(b + FLOOR)).mean())
        expected["convergence"].append(
            np.mean(np.sqrt(((a - b) ** 2).mean((1, 2))) / (np.sqrt((b**2).mean((1, 2))) + FLOOR))
        )
        expected["mel"].append(np.abs(np.log(bank @ a + FLOOR) - np.log(bank @ b + FLOOR)).mean())
    np.testing.assert_allclose(float(losses["waveform"]), 0.5 * np.abs(sounds[0] - sounds[1]).mean(), rtol=1e-5)
    for name, weight in {"log_magnitude": 2, "convergence": 3, "mel": 4}.items():
        np.testing.assert_allclose(float(losses[name]), weight * np.mean(expected[name]), rtol=1e-4)


def test_the_gradient_is_the_slope(sounds, monkeypatch):
    """Along the gradient itself, by central differences, with a floor that smooths the logarithm near 0."""
    monkeypatch.setattr("ernie5.tokenizers.audio.losses.FLOOR", 0.5)
    config = AudioLossConfig(windows=(256, 64), mel_bands=20)
    target = paddle.to_tensor(sounds[1])

    def total(x: paddle.Tensor) -> paddle.Tensor:
        return sum(reconstruction_losses(x, target, RATE, config).values())

    x = paddle.to_tensor(sounds[0], stop_gradient=False)
    total(x).backward()
    direction = x.grad / x.grad.norm()
    slope, step = float(x.grad.norm()), 1e-3
    measured = float(total(x.detach() + step * direction) - total(x.detach() - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, measured, rtol=0.02)


def test_the_same_sound_has_no_loss_and_a_finite_gradient(sounds):
    config = AudioLossConfig(windows=(64,))
    for sound in (sounds[0], np.zeros_like(sounds[0])):
        x = paddle.to_tensor(sound, stop_gradient=False)
        total = sum(reconstruction_losses(x, paddle.to_tensor(sound), RATE, config).values())
        total.backward()
        assert float(total) < 2e-3 and np.isfinite(x.grad.numpy()).all()


def test_a_weight_of_0_and_a_window_longer_than_the_clip_are_left_out(sounds):
    output, target = map(paddle.to_tensor, sounds)
    config = AudioLossConfig(waveform=0.0, convergence=0.0, windows=(2048, 64), mel_bands=20)
    losses = reconstruction_losses(output, target, RATE, config)
    assert losses.keys() == {"log_magnitude", "mel"}
    a, b = (scipy_magnitudes(sound, 64) for sound in sounds)
    expected = np.abs(np.log(a + FLOOR) - np.log(b + FLOOR)).mean()
    np.testing.assert_allclose(float(losses["log_magnitude"]), expected, rtol=1e-4)


@pytest.mark.parametrize(("window", "bands"), [(512, 40), (64, 8), (2048, 64)])
def test_mel_bands_are_means_centred_one_step_apart_in_mel(window, bands):
    bank = mel_bank(RATE, window, bands).numpy()
    np.testing.assert_allclose(bank.sum(1), 1, rtol=1e-5)
    step = htk(RATE / 2) / (bands + 1)
    peaks = np.array([htk(f) for f in bank.argmax(1) * RATE / window])
    spacing = RATE / window  # a peak is at the nearest frequency that the window has
    slack = [htk(700 * (10 ** (m / 2595) - 1) + spacing) - m for m in step * np.arange(1, bands + 1)]
    assert (np.abs(peaks - step * np.arange(1, bands + 1)) <= slack).all()


def test_si_sdr_does_not_see_loudness_and_is_the_ratio_of_the_energies(sounds):
    target, noise = (sound - sound.mean(1, keepdims=True) for sound in sounds)
    noise -= (noise * target).sum(1, keepdims=True) / (target**2).sum(1, keepdims=True) * target
    output = 0.3 * (target + 0.1 * noise) + 0.2
    expected = 10 * np.log10((target**2).sum(1) / (0.01 * noise**2).sum(1))
    found = scale_invariant_ratio(paddle.to_tensor(output), paddle.to_tensor(target))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3)


def test_mel_distance_of_a_sound_twice_as_loud_is_six_decibels(sounds):
    target = paddle.to_tensor(sounds[0])
    distance = mel_distance(2 * target, target, RATE)
    np.testing.assert_allclose(distance.numpy(), 20 * np.log10(2), rtol=1e-2)
    np.testing.assert_array_equal(mel_distance(target, target, RATE).numpy(), 0)
