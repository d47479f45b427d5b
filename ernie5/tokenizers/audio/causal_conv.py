"""Convolutions over time that see the present and the past, never the future; a clip may come in chunks.

Signals are [batch, channels, samples], whole frames of codes at every rate. Outside training each frame is a row of the
convolution of its own, with the samples before it: Paddle multiplies the rows one by one on a CPU, so the last bits of
a frame do not depend on how many frames are beside it. They would on where a row begins in memory, which MKL rounds by;
with output channels that are multiples of 16 every row begins at a register's width (a rule of the configuration). A
convolution over the whole clip, which training takes, is faster where a frame has few samples and differs by rounding.
"""

import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.errors import UserError
from ernie5.tokenizers.vision.causal_conv import Stream

GAIN = 1.68  # 1 / the root mean square of swish of a standard normal: with it a layer keeps its input's variance


class CausalConv(nn.Layer):
    """Convolution whose last tap is the present, with zeros before the clip.

    With a stride an output sees the `stride` samples that it stands for, and those before them. The weight is
    [out, in, kernel].
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, frame: int, stride: int = 1, dilation: int = 1
    ):
        """frame: how many samples of the input make a frame of codes, a multiple of the stride."""
        super().__init__()
        self.stride, self.dilation, self.frame = stride, dilation, frame
        self.context = (kernel - 1) * dilation - (stride - 1)
        assert self.context >= 0 and frame % stride == 0, "a stride that leaves samples out"
        bound = GAIN * (3 / (in_channels * kernel)) ** 0.5
        initial = nn.initializer.Uniform(-bound, bound)
        self.weight = self.create_parameter([out_channels, in_channels, kernel], default_initializer=initial)
        self.bias = self.create_parameter([out_channels], is_bias=True)

    def forward(self, signal: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        """signal [batch, in, frames * frame] -> [batch, out, frames * frame / stride]."""
        batch = signal.shape[0]
        if self.context:
            signal = paddle.concat([self._past(signal, stream), signal], axis=-1)
        if stream is not None and self.context:
            stream.store(self, [signal[..., -self.context :]])
        if self.training:
            return self._convolved(signal)
        rows = self._convolved(_windows(signal, self.context, self.frame))
        by_clip = rows.reshape([batch, -1, *rows.shape[1:]]).transpose([0, 2, 1, 3])
        return by_clip.reshape([batch, rows.shape[1], -1])

    def _convolved(self, signal: paddle.Tensor) -> paddle.Tensor:
        return F.conv1d(signal, self.weight, self.bias, self.stride, dilation=self.dilation)

    def _past(self, signal: paddle.Tensor, stream: Stream | None) -> paddle.Tensor:
        """The samples before the signal, [batch, in, context]."""
        memory = stream.recall(self) if stream is not None else None
        return memory[0] if memory else paddle.zeros([*signal.shape[:2], self.context], signal.dtype)


class ResidualUnit(nn.Layer):
    """x + conv2(swish(conv1(swish(x)))): a dilated convolution and one over channels (arXiv:2107.03312 §3.1).

    conv2 is zero at the start (arXiv:1901.09321), so that the network begins shallow. There is no norm: over time it
    would see the future, and over channels it takes out loudness. SiLU is `F.swish`: the gradient of Paddle 3.3.1's
    `F.silu` on CPU is NaN below -88. Snake (arXiv:2306.06546) took ten times as long on a CPU.
    """

    def __init__(self, channels: int, kernel: int, dilation: int, frame: int):
        super().__init__()
        self.conv1 = CausalConv(channels, channels, kernel, dilation=dilation, frame=frame)
        self.conv2 = CausalConv(channels, channels, 1, frame=frame)
        self.conv2.weight.set_value(paddle.zeros_like(self.conv2.weight))

    def forward(self, signal: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        return signal + self.conv2(F.swish(self.conv1(F.swish(signal), stream)), stream)


class Upsample(nn.Layer):
    """A transposed convolution of kernel 2 * stride without the last `stride` samples, which would need the future.

    Each of its outputs comes from two inputs, the present and the one before, so it is a convolution of kernel 2 with
    `stride` times the channels, whose results are then put one after the other.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, frame: int):
        """frame: as of `CausalConv`, of the input."""
        super().__init__()
        self.stride = stride
        self.conv = CausalConv(in_channels, out_channels * stride, 2, frame=frame)

    def forward(self, signal: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        """[batch, in, samples] -> [batch, out, samples * stride]."""
        phases = self.conv(signal, stream)
        batch, channels, samples = phases.shape
        by_phase = phases.reshape([batch, channels // self.stride, self.stride, samples])
        return by_phase.transpose([0, 1, 3, 2]).reshape([batch, channels // self.stride, samples * self.stride])


def continue_clip(stream: Stream, network: nn.Layer, batch: int, ends: bool) -> None:
    """Notes a chunk of `batch` clips, the last one if it `ends` them.

    UserError if the stream saw another number of clips or their end.
    """
    known = stream.recall(network)
    if known is not None:
        clips, ended = known[0].tolist()
        if ended:
            raise UserError(
                "a chunk after one that did not fill its last frame: a clip ends there, begin another Stream"
            )
        if clips != batch:
            raise UserError(f"a chunk of {batch} clips after one of {clips}: begin another Stream")
    stream.store(network, [paddle.to_tensor([batch, int(ends)])])


def _windows(signal: paddle.Tensor, context: int, frame: int) -> paddle.Tensor:
    """[batch, channels, context + frames * frame] -> [batch * frames, channels, context + frame]."""
    batch, channels, samples = signal.shape
    starts = paddle.arange(0, samples - context, frame)
    index = (starts.unsqueeze(1) + paddle.arange(context + frame)).flatten()
    windows = signal.gather(index, axis=2).reshape([batch, channels, -1, context + frame])
    return windows.transpose([0, 2, 1, 3]).reshape([-1, channels, context + frame])
