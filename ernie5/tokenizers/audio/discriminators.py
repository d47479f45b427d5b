"""The adversarial loss: multi-period and multi-resolution discriminators of waveforms (report §2.3).

As in arXiv:2306.06546 §3.4, after arXiv:2010.05646 §2.3 and arXiv:2101.00139, with narrower layers and spectrograms
that are not split into bands, so that they train on a CPU. Waveforms are float32 [batch, samples], of any length.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.nn.utils import weight_norm

from ernie5.config.audio_tokenizer import AudioAdversarialConfig

LOUDNESS = 0.1  # of speech, root mean square
SLOPE = 0.1  # of the leaky rectifiers (arXiv:2010.05646)
WIDENING = (1, 2, 4, 4)  # widths of a period's layers over `channels`
NARROWINGS = 3  # halvings of a spectrogram's frequencies


class Judgement(NamedTuple):
    """What one discriminator says of waveforms; any shape after the batch."""

    scores: paddle.Tensor  # above 0 (hinge) or near 1 (least squares) for what sounds real
    features: list[paddle.Tensor]  # of each layer before it


class _Judge(nn.Layer, ABC):
    """Convolutions over a picture of the waveform, whose last one gives the scores. Subclasses draw the picture."""

    def __init__(self, layers: list[nn.Layer]):
        super().__init__()
        self.layers = nn.LayerList(weight_norm(layer) for layer in layers)

    def forward(self, waveform: paddle.Tensor) -> Judgement:
        hidden, features = self.picture(waveform / LOUDNESS), []
        for layer in self.layers[:-1]:
            hidden = F.leaky_relu(layer(hidden), SLOPE)
            features.append(hidden)
        return Judgement(self.layers[-1](hidden), features)

    @abstractmethod
    def picture(self, waveform: paddle.Tensor) -> paddle.Tensor:
        """[batch, samples] -> [batch, channels, height, width]."""


class PeriodDiscriminator(_Judge):
    """Sees samples `period` apart: layers over [samples / period, period] that never mix its columns."""

    def __init__(self, period: int, channels: int):
        widths = [1, *(channels * times for times in WIDENING)]
        pairs = zip(widths, widths[1:], strict=False)
        layers = [nn.Conv2D(before, after, (5, 1), (3, 1), padding=(2, 0)) for before, after in pairs]
        super().__init__([*layers, nn.Conv2D(widths[-1], 1, (3, 1), padding=(1, 0))])
        self.period = period

    def picture(self, waveform: paddle.Tensor) -> paddle.Tensor:
        """[batch, samples] -> [batch, 1, samples / period, period]; the last row is filled with zeros."""
        waveform = _lengthened(waveform, -(-waveform.shape[1] // self.period) * self.period)
        return waveform.reshape([waveform.shape[0], 1, -1, self.period])


class ResolutionDiscriminator(_Judge):
    """Sees the real and imaginary parts of a spectrogram of one window, whose hop is a quarter of it."""

    def __init__(self, window: int, channels: int):
        narrowing = [nn.Conv2D(channels, channels, (3, 9), (1, 2), padding=(1, 4)) for _ in range(NARROWINGS)]
        first = nn.Conv2D(2, channels, (3, 9), padding=(1, 4))
        last = [nn.Conv2D(channels, width, 3, padding=1) for width in (channels, 1)]
        super().__init__([first, *narrowing, *last])
        hann = np.hanning(window + 1)[:-1]
        self.register_buffer("hann", paddle.to_tensor((hann / np.sqrt(np.square(hann).sum())).astype(np.float32)))

    def picture(self, waveform: paddle.Tensor) -> paddle.Tensor:
        """[batch, samples] -> [batch, 2, 1 + samples / hop, window / 2 + 1]; a clip below a window ends in zeros."""
        window = self.hann.shape[0]
        waveform = _lengthened(waveform, window)
        spectrum = paddle.signal.stft(waveform, window, window // 4, window=self.hann, center=True)
        return paddle.stack([spectrum.real(), spectrum.imag()], axis=1).transpose([0, 1, 3, 2])


def _lengthened(waveform: paddle.Tensor, samples: int) -> paddle.Tensor:
    """With zeros at the end up to this number of samples, if there are fewer."""
    missing = samples - waveform.shape[1]
    return F.pad(waveform, [0, missing], pad_from_left_axis=False) if missing > 0 else waveform


class GeneratorLosses(NamedTuple):
    """Scalars without weights, means over discriminators."""

    adversarial: paddle.Tensor
    features: paddle.Tensor


class AudioAdversary(nn.Layer):
    """All discriminators of a configuration with their losses, each a mean over discriminators."""

    def __init__(self, config: AudioAdversarialConfig):
        super().__init__()
        self.config = config
        judges = [PeriodDiscriminator(period, config.channels) for period in config.periods]
        judges += [ResolutionDiscriminator(window, config.channels) for window in config.resolutions]
        self.judges = nn.LayerList(judges)

    def forward(self, waveform: paddle.Tensor) -> list[Judgement]:
        """One judgement a discriminator."""
        return [judge(waveform) for judge in self.judges]

    def loss(self, real: paddle.Tensor, fake: paddle.Tensor) -> paddle.Tensor:
        """The discriminators' loss; gradients do not reach `fake`."""
        pairs = zip(self(real.detach()), self(fake.detach()), strict=True)
        losses = [discriminator_loss(r.scores, f.scores, self.config.loss) for r, f in pairs]
        return sum(losses) / len(losses)

    def generator_losses(self, real: paddle.Tensor, fake: paddle.Tensor) -> GeneratorLosses:
        """What moves decoded sound towards real sound. It leaves gradients in the discriminators too: clear them."""
        with paddle.no_grad():
            wanted = self(real)
        given = self(fake)
        return GeneratorLosses(
            adversarial=sum(generator_loss(one.scores, self.config.loss) for one in given) / len(given),
            features=sum(feature_distance(f.features, r.features) for f, r in zip(given, wanted, strict=True))
            / len(given),
        )


def discriminator_loss(real: paddle.Tensor, fake: paddle.Tensor, kind: str) -> paddle.Tensor:
    """Scores of any shape -> scalar: "hinge" (arXiv:1705.02894), or "least_squares" with 1 for real, 0 for fake."""
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return (1 - real).square().mean() + fake.square().mean()  # arXiv:1611.04076 eq. 9, without its halves


def generator_loss(fake: paddle.Tensor, kind: str) -> paddle.Tensor:
    """Scores of decoded sound -> scalar, the other side of `discriminator_loss`."""
    return -fake.mean() if kind == "hinge" else (1 - fake).square().mean()


def feature_distance(fake: list[paddle.Tensor], real: list[paddle.Tensor]) -> paddle.Tensor:
    """Mean over layers of the mean absolute difference (arXiv:2010.05646 eq. 4, which sums over layers)."""
    return sum(F.l1_loss(f, r) for f, r in zip(fake, real, strict=True)) / len(fake)
