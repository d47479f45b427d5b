"""Waveform to spectra and back, a step for each hop, causal and in chunks.

A spectrum has the frequencies from 0 up to half the sample rate without that itself, which no resampled sound has: half
a window of them, a multiple of 16 (see `causal_layers`). Transforms are products with a fixed matrix. The window is a
periodic Hann window; spectra are divided by the root of its energy, so that noise of one loudness has one height with
every window.
"""

import numpy as np
import paddle
from paddle import nn

from ernie5.tokenizers.audio.causal_layers import multiplied, with_past
from ernie5.tokenizers.audio.losses import FLOOR
from ernie5.tokenizers.vision.causal_conv import Stream

CENTRE, SPREAD = -4.5, 1.5  # of logarithms of magnitudes of speech, about
LOUDEST = 4.0  # largest logarithm of a magnitude; a sine of full scale has about 2
SMALLEST_SQUARE = 1e-6  # under the root that makes a phase of two numbers


class Analysis(nn.Layer):
    """Logarithms of magnitudes. The window of a step ends with the step's own samples."""

    def __init__(self, window: int, hop: int, steps: int):
        """window: a multiple of the hop; steps: hops in a frame of codes."""
        super().__init__()
        self.window, self.hop, self.steps = window, hop, steps
        self.register_buffer("transform", paddle.to_tensor(_analysis(window)), persistable=False)

    def forward(self, waveform: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        """[batch, frames * steps * hop] -> [batch, frames * steps, window / 2], about standard normal for speech."""
        batch, samples = waveform.shape
        overlap = self.window // self.hop
        hops = with_past(self, waveform.reshape([batch, -1, self.hop]), overlap - 1, stream)
        steps = samples // self.hop
        windows = paddle.concat([hops[:, i : i + steps] for i in range(overlap)], axis=-1)  # [batch, steps, window]
        spectra = multiplied(windows, self.transform, self.steps, self.training)
        real, imaginary = spectra.chunk(2, axis=-1)
        power = real.square() + imaginary.square() + FLOOR**2
        return (0.5 * power.log() - CENTRE) / SPREAD


class Synthesis(nn.Layer):
    """Magnitudes and phases to a waveform: windows of the inverse transform, added where they overlap.

    The window of a step begins with the step's own samples. Spectra of a sound give that sound, but for the first
    window - hop samples of a clip, which the steps before it lack.
    """

    def __init__(self, window: int, hop: int, steps: int):
        """As of `Analysis`."""
        super().__init__()
        self.window, self.hop, self.steps = window, hop, steps
        self.register_buffer("transform", paddle.to_tensor(_synthesis(window, hop)), persistable=False)

    def forward(self, values: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        """values [batch, frames * steps, 3 * window / 2] -> waveform [batch, frames * steps * hop].

        values: logarithms of magnitudes as of `Analysis`, then two numbers in the direction of each phase.
        """
        logarithm, x, y = values.chunk(3, axis=-1)
        magnitude = (logarithm * SPREAD + CENTRE).clip(max=LOUDEST).exp()
        scale = magnitude * (x.square() + y.square() + SMALLEST_SQUARE).rsqrt()
        spectra = paddle.concat([scale * x, scale * y], axis=-1)
        return self.overlapped(multiplied(spectra, self.transform, self.steps, self.training), stream)

    def overlapped(self, windows: paddle.Tensor, stream: Stream | None) -> paddle.Tensor:
        """windows [batch, steps, window] -> [batch, steps * hop]."""
        batch, steps, window = windows.shape
        overlap = window // self.hop
        windows = with_past(self, windows, overlap - 1, stream)
        delayed = [windows[:, overlap - 1 - i :][:, :steps, i * self.hop : (i + 1) * self.hop] for i in range(overlap)]
        return sum(delayed[1:], delayed[0]).reshape([batch, -1])


def _hann(window: int) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)


def _angles(window: int) -> np.ndarray:
    """2 pi k t / window, [samples t, frequencies k]."""
    return 2 * np.pi / window * (np.outer(np.arange(window), np.arange(window // 2)) % window)


def _analysis(window: int) -> np.ndarray:
    """float32 [window, window]: real parts, then imaginary ones."""
    hann, angles = _hann(window), _angles(window)
    shape = hann[:, None] / np.sqrt(np.square(hann).sum())
    return np.concatenate([shape * np.cos(angles), -shape * np.sin(angles)], axis=1).astype(np.float32)


def _synthesis(window: int, hop: int) -> np.ndarray:
    """float32 [window, window]: of real parts, then of imaginary ones.

    Both transforms have the window, so what overlaps adds up to the sum of its squares, which is divided by.
    """
    hann, angles = _hann(window), _angles(window)
    total = np.tile(np.square(hann).reshape([-1, hop]).sum(0), window // hop)
    shape = hann / total * np.sqrt(np.square(hann).sum()) / window
    twice = np.where(np.arange(window // 2) == 0, 1, 2)[:, None]  # each but 0 stands for its negative too
    return np.concatenate([twice * shape * np.cos(angles.T), -twice * shape * np.sin(angles.T)]).astype(np.float32)
