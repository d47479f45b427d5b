"""Layers over time that see the present and the past, never the future; a clip may come in chunks of whole frames.

Signals are [batch, time, channels], with the same number of steps for each frame of codes. Outside training a matrix
product takes each frame by itself, one of a batch of products, so that the last bits of a frame do not depend on how
many frames are beside it: MKL chooses its kernels by the number of rows. Within a frame it rounds by where rows begin
in memory; with widths that are multiples of 16 every row begins at a register's width (a rule of the configuration).
One product over all rows, which training takes, is faster and differs by rounding.
"""

import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.errors import UserError
from ernie5.tokenizers.vision.causal_conv import Stream

EXPANSION = 3  # hidden channels of a block over its channels
LAYER_SCALE = 0.3  # of a block's branch at the start (arXiv:2103.17239), so that the network begins shallow


def multiplied(signal: paddle.Tensor, matrix: paddle.Tensor, steps: int, training: bool) -> paddle.Tensor:
    """signal [batch, frames * steps, in] times matrix [in, out] -> [batch, frames * steps, out].

    Paddle makes one product of a batch of frames and one matrix, unless the first is to be transposed; and of a single
    frame too, so a frame of zeros stands beside it.
    """
    if training:
        return signal.matmul(matrix)
    frames = signal.reshape([-1, steps, signal.shape[-1]]).transpose([0, 2, 1])
    alone = frames.shape[0] == 1
    if alone:
        frames = paddle.concat([frames, paddle.zeros_like(frames)])
    product = frames.matmul(matrix, transpose_x=True)
    return (product[:1] if alone else product).reshape([*signal.shape[:2], -1])


class FrameLinear(nn.Layer):
    """A product over channels, which keeps the variance of its input. The weight is [in, out]."""

    def __init__(self, in_channels: int, out_channels: int, steps: int):
        """steps: of the time axis in a frame of codes."""
        super().__init__()
        self.steps = steps
        bound = (3 / in_channels) ** 0.5
        initial = nn.initializer.Uniform(-bound, bound)
        self.weight = self.create_parameter([in_channels, out_channels], default_initializer=initial)
        self.bias = self.create_parameter([out_channels], is_bias=True)

    def forward(self, signal: paddle.Tensor) -> paddle.Tensor:
        """[batch, frames * steps, in] -> [batch, frames * steps, out]."""
        return multiplied(signal, self.weight, self.steps, self.training) + self.bias


class CausalDepthwiseConv(nn.Layer):
    """A convolution of each channel alone, whose last tap is the present, with zeros before the clip.

    The weight is [channels, 1, kernel].
    """

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.kernel = kernel
        bound = (3 / kernel) ** 0.5
        initial = nn.initializer.Uniform(-bound, bound)
        self.weight = self.create_parameter([channels, 1, kernel], default_initializer=initial)
        self.bias = self.create_parameter([channels], is_bias=True)

    def forward(self, signal: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        """[batch, time, channels] -> the same shape."""
        batch, time, channels = signal.shape
        signal = with_past(self, signal, self.kernel - 1, stream)
        if self.training:
            return F.conv1d(signal, self.weight, self.bias, groups=channels, data_format="NLC")
        taps = self.weight.squeeze(1).transpose([1, 0])  # a sum of shifted signals: a tenth of conv1d's time on a CPU
        return sum((signal[:, i : i + time] * taps[i] for i in range(self.kernel)), self.bias)


class Block(nn.Layer):
    """x + scale * expand-and-shrink(norm(depthwise(x))) (ConvNeXt, arXiv:2201.03545; over time arXiv:2306.00814).

    The norm is over the channels of one step, so it sees no future; loudness goes past it in x. The activation is
    `F.swish`: the gradient of GELU takes ten times as long on a CPU, and that of Paddle 3.3.1's `F.silu` is NaN below
    -88.
    """

    def __init__(self, channels: int, kernel: int, steps: int):
        super().__init__()
        self.depthwise = CausalDepthwiseConv(channels, kernel)
        self.norm = nn.LayerNorm(channels)
        self.expand = FrameLinear(channels, EXPANSION * channels, steps)
        self.shrink = FrameLinear(EXPANSION * channels, channels, steps)
        self.scale = self.create_parameter([channels], default_initializer=nn.initializer.Constant(LAYER_SCALE))

    def forward(self, signal: paddle.Tensor, stream: Stream | None = None) -> paddle.Tensor:
        """[batch, time, channels] -> the same shape."""
        hidden = self.norm(self.depthwise(signal, stream))
        return signal + self.shrink(F.swish(self.expand(hidden))) * self.scale


def with_past(layer: nn.Layer, signal: paddle.Tensor, steps: int, stream: Stream | None) -> paddle.Tensor:
    """signal [batch, time, ...] behind the last `steps` of what the layer saw of the clip, zeros before it."""
    if not steps:
        return signal
    memory = stream.recall(layer) if stream is not None else None
    past = memory[0] if memory else paddle.zeros([signal.shape[0], steps, *signal.shape[2:]], signal.dtype)
    signal = paddle.concat([past, signal], axis=1)
    if stream is not None:
        stream.store(layer, [signal[:, -steps:]])
    return signal


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
