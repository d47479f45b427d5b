"""Transforms, against NumPy's FFT."""

import numpy as np
import paddle
import pytest

from ernie5.tokenizers.audio.losses import FLOOR
from ernie5.tokenizers.audio.spectra import CENTRE, SPREAD, Analysis, Synthesis
from ernie5.tokenizers.vision.causal_conv import Stream

HOP, STEPS = 16, 4
WINDOWS = pytest.mark.parametrize("window", [64, 96, 128])
MODES = pytest.mark.parametrize("mode", ["train", "eval"])


def noise(frames: int, batch: int = 2) -> np.ndarray:
    """Below a quarter of the rate, so that little reaches half of it, which spectra leave out."""
    spectrum = np.fft.rfft(np.random.default_rng(0).normal(0, 0.1, [batch, frames * STEPS * HOP]))
    size = spectrum.shape[1]
    return np.fft.irfft(spectrum * (np.arange(size) < 0.5 * size)).astype(np.float32)


def hann(window: int) -> np.ndarray:
    return np.hanning(window + 1)[:-1]


def spectra(waveform: np.ndarray, window: int) -> np.ndarray:
    """Of windows that begin at each hop, [batch, steps, window / 2 + 1], over the root of the window's energy."""
    padded = np.pad(waveform, [(0, 0), (0, window)])
    starts = range(0, waveform.shape[1], HOP)
    windows = np.stack([padded[:, start : start + window] for start in starts], axis=1)
    return np.fft.rfft(windows * hann(window)) / np.sqrt(np.square(hann(window)).sum())


def analysed(magnitudes: np.ndarray) -> np.ndarray:
    return (0.5 * np.log(np.square(magnitudes) + FLOOR**2) - CENTRE) / SPREAD


@WINDOWS
@MODES
def test_analysis_is_the_logarithm_of_magnitudes_of_what_has_been(window, mode):
    waveform = noise(3)
    layer = Analysis(window, HOP, STEPS)
    getattr(layer, mode)()
    past = np.pad(waveform, [(0, 0), (window - HOP, 0)])
    expected = analysed(np.abs(spectra(past, window))[:, : 3 * STEPS, :-1])
    np.testing.assert_allclose(layer(paddle.to_tensor(waveform)).numpy(), expected, atol=2e-3)


@WINDOWS
@MODES
def test_spectra_of_a_sound_become_that_sound(window, mode):
    waveform = noise(4)
    layer = Synthesis(window, HOP, STEPS)
    getattr(layer, mode)()
    given = spectra(waveform, window)[..., :-1]
    values = [(np.log(np.abs(given)) - CENTRE) / SPREAD, 3 * np.cos(np.angle(given)), 3 * np.sin(np.angle(given))]
    sound = layer(paddle.to_tensor(np.concatenate(values, axis=-1).astype(np.float32))).numpy()
    np.testing.assert_allclose(sound[:, window:], waveform[:, window:], atol=1e-3)


@WINDOWS
def test_a_clip_in_chunks_is_transformed_as_at_once(window):
    analysis, synthesis = Analysis(window, HOP, STEPS), Synthesis(window, HOP, STEPS)
    analysis.eval(), synthesis.eval()
    waveform, values = paddle.to_tensor(noise(7)), paddle.randn([2, 7 * STEPS, 3 * window // 2])
    stream = Stream()
    parts = [analysis(part, stream) for part in waveform.split([n * STEPS * HOP for n in (1, 1, 5)], axis=1)]
    np.testing.assert_array_equal(paddle.concat(parts, axis=1).numpy(), analysis(waveform).numpy())
    parts = [synthesis(part, stream) for part in values.split([n * STEPS for n in (1, 1, 5)], axis=1)]
    np.testing.assert_array_equal(paddle.concat(parts, axis=1).numpy(), synthesis(values).numpy())


def test_a_spectrum_changes_no_sample_before_its_step():
    layer, values = Synthesis(64, HOP, STEPS), paddle.randn([1, 8, 96])
    before = layer(values).numpy()
    values[:, 5:] = 0.0
    after = layer(values).numpy()
    np.testing.assert_allclose(after[:, : 5 * HOP], before[:, : 5 * HOP], atol=1e-6)
    assert not np.allclose(after[:, 5 * HOP : 6 * HOP], before[:, 5 * HOP : 6 * HOP])


def test_a_phase_of_no_direction_has_a_gradient():
    values = paddle.zeros([1, 4, 96])
    values.stop_gradient = False
    Synthesis(64, HOP, STEPS)(values).square().sum().backward()
    assert values.grad.isfinite().all()
