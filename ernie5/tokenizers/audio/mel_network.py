"""Convolutions over log-mel frames, which the recogniser and the speaker encoder begin with.

A clip of a batch ends where its own samples end: what lies behind is set to zero after every layer, so that it gives
what it would give alone. Frames of the spectrogram come every 10 ms, hidden states every 20 ms.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.config.audio_networks import MelNetworkConfig, MelTrainConfig
from ernie5.config.audio_tokenizer import FRAMES_PER_SECOND
from ernie5.errors import UserError
from ernie5.tokenizers.audio.losses import FLOOR, magnitudes, mel_bank
from ernie5.tokenizers.schedule import warmup_cosine

MEL_PER_FRAME, STATES_PER_FRAME = 8, 4  # in the 80 ms of a frame of codes
KERNEL, DILATIONS = 5, (1, 2, 4)  # the dilations of the units, over and over
POOL = 8  # batches that are drawn together
CENTRE, SPREAD = -4.5, 1.5  # of log-mel values of speech, about


class MelNetwork(nn.Layer):
    """Log-mel frames -> hidden states: a convolution that halves the rate, then residual units. Sees the future too."""

    def __init__(self, config: MelNetworkConfig):
        super().__init__()
        self.config, self.dropout = config, 0.0
        self.conv_in = nn.Conv1D(
            config.bands, config.width, KERNEL, stride=MEL_PER_FRAME // STATES_PER_FRAME, padding=2
        )
        self.units = nn.LayerList(_Unit(config.width, DILATIONS[i % len(DILATIONS)]) for i in range(config.units))
        self.norm = nn.LayerNorm(config.width)

    def num_frames(self, samples: int) -> int:
        """Frames of 80 ms of a clip, the last one filled with zeros."""
        return -(-samples // round(self.config.sample_rate / FRAMES_PER_SECOND))

    def log_mel(self, waveform: paddle.Tensor) -> paddle.Tensor:
        """float32 [batch, samples] -> [batch, bands, 8 * frames], about standard normal for speech.

        The window is 40 ms; a frame of silence behind the clip keeps its end apart from what is mirrored there.
        """
        sample_rate, frames = self.config.sample_rate, self.num_frames(waveform.shape[1])
        frame = round(sample_rate / FRAMES_PER_SECOND)
        padded = F.pad(waveform, [0, (frames + 1) * frame - waveform.shape[1]], pad_from_left_axis=False)
        bank = mel_bank(sample_rate, frame // 2, self.config.bands)
        mel = bank.matmul(magnitudes(padded, frame // 2)[..., : frames * MEL_PER_FRAME])
        return ((mel + FLOOR).log() - CENTRE) / SPREAD

    def forward(self, mel: paddle.Tensor, frames: paddle.Tensor | None = None) -> paddle.Tensor:
        """mel [batch, bands, 8 * n], frames int [batch], at most n, or None for n -> [batch, 4 * n, width]."""
        kept = None
        if frames is not None:
            mel = mel * _kept(frames * MEL_PER_FRAME, mel.shape[2])
            kept = _kept(frames * STATES_PER_FRAME, mel.shape[2] // MEL_PER_FRAME * STATES_PER_FRAME)
        hidden = self.conv_in(mel)
        for unit in self.units:
            hidden = hidden + F.dropout(
                unit(hidden if kept is None else hidden * kept, kept), self.dropout, training=self.training
            )
        return self.norm(hidden.transpose([0, 2, 1]))


class _Unit(nn.Layer):
    """A norm of each state, a dilated convolution and one over channels; the latter begins as zero."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv1 = nn.Conv1D(width, width, KERNEL, padding=dilation * (KERNEL // 2), dilation=dilation)
        self.conv2 = nn.Conv1D(width, width, 1)
        self.conv2.weight.set_value(paddle.zeros_like(self.conv2.weight))

    def forward(self, hidden: paddle.Tensor, kept: paddle.Tensor | None) -> paddle.Tensor:
        normed = self.norm(hidden.transpose([0, 2, 1])).transpose([0, 2, 1])
        return self.conv2(F.swish(self.conv1(normed if kept is None else normed * kept)))


def _kept(lengths: paddle.Tensor, size: int) -> paddle.Tensor:
    """1 before each length, 0 from there on: float32 [batch, 1, size]."""
    return (paddle.arange(size) < lengths.astype("int64").unsqueeze(1)).astype("float32").unsqueeze(1)


def weight_shapes(config: MelNetworkConfig, prefix: str) -> dict[str, list[int]]:
    """Weights with the settings in their shapes, as `NetworkFolder` wants them."""
    units = {f"{prefix}.units.{i}.conv1.weight": [config.width, config.width, KERNEL] for i in range(config.units)}
    return units | {f"{prefix}.conv_in.weight": [config.width, config.bands, KERNEL]}


def check_waveform(waveform: paddle.Tensor) -> None:
    """UserError for anything but finite float32 [batch, samples] with at least one sample."""
    if waveform.ndim != 2 or waveform.dtype != paddle.float32 or not waveform.size:
        found = f"{str(waveform.dtype).removeprefix('paddle.')} {list(waveform.shape)}"
        raise UserError(f"a waveform is {found}: give float32 [batch, samples] with at least one sample")
    if not waveform.isfinite().all():
        raise UserError("a waveform has samples that are no finite numbers: give -1 to 1")


def stacked(waveforms: Sequence[np.ndarray]) -> np.ndarray:
    """float32 [samples] each -> [batch, most samples], filled with zeros."""
    batch = np.zeros([len(waveforms), max(map(len, waveforms))], np.float32)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return batch


def shuffled(lengths: Sequence[int], batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Numbers of clips of these lengths, [batch_size] each, without end: every clip once before any comes again.

    Of POOL batches those are put together that are about as long, so that little of a batch is filled with zeros.
    """
    lengths, waiting = np.asarray(lengths), np.zeros(0, np.int64)
    while True:
        while len(waiting) < POOL * batch_size:
            waiting = np.concatenate([waiting, rng.permutation(len(lengths))])
        pool, waiting = waiting[: POOL * batch_size], waiting[POOL * batch_size :]
        batches = pool[np.argsort(lengths[pool], kind="stable")].reshape([POOL, batch_size])
        yield from rng.permutation(batches)


class Steps:
    """Updates of a network's weights by AdamW, after `warmup_cosine`."""

    def __init__(self, network: nn.Layer, config: MelTrainConfig):
        self._config, self._step = config, 0
        self._optimizer = paddle.optimizer.AdamW(
            config.learning_rate,
            beta2=0.98,
            parameters=network.parameters(),
            weight_decay=config.weight_decay,
            grad_clip=nn.ClipGradByGlobalNorm(config.clip_norm),
        )

    def take(self, loss: paddle.Tensor) -> None:
        """One step down this loss."""
        config = self._config
        self._optimizer.set_lr(config.learning_rate * warmup_cosine(self._step, config.steps, config.warmup_steps))
        loss.backward()
        self._optimizer.step()
        self._optimizer.clear_grad()
        self._step += 1
