"""Convolutions that see the present and the past, never the future; a film in chunks gives what it gives at once.

Frames are [frames * batch, channels, height, width], time first: frame t of film b is row t * batch + b, so that a
shift in time is one contiguous piece.
"""

import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.errors import UserError

Size = tuple[int, int, int]  # films, height and width of a chunk

TEMPORAL_KERNEL = 3  # frames that a convolution of the video network sees: its own and two before


class Stream:
    """What causal layers remember of a film between its chunks. A new film needs a new one."""

    def __init__(self) -> None:
        self._memory: dict[nn.Layer, list[paddle.Tensor]] = {}
        self._sizes: dict[nn.Layer, Size] = {}

    def recall(self, layer: nn.Layer) -> list[paddle.Tensor] | None:
        """What the layer stored at the last chunk; None at the first."""
        return self._memory.get(layer)

    def store(self, layer: nn.Layer, memory: list[paddle.Tensor]) -> None:
        self._memory[layer] = memory

    def begins(self, network: nn.Layer, size: Size) -> bool:
        """Whether the network has seen no chunk yet. UserError if it has seen one of another size."""
        known = self._sizes.get(network, size)
        if known != size:
            raise UserError(
                f"a chunk of {_told(size)} after one of {_told(known)}: a stream is of the same films throughout, so "
                "begin another Stream"
            )
        return network not in self._sizes

    def follow(self, network: nn.Layer, size: Size) -> None:
        """Notes what later chunks must have."""
        self._sizes[network] = size


def _told(size: Size) -> str:
    return "{} films of {} x {}".format(*size)


class CausalConv(nn.Layer):
    """Convolution over kt frames, the last of them the present, with zeros before the film; zeros around the picture.

    The weight is [out, in, kt, k, k], the present last. Frame t is sum over d of W[kt - 1 - d] * x[t - d]: all kt
    products of a frame are one 2D convolution with kt * out channels, whose results are then shifted and added. On a
    CPU conv3d takes 1.4 to 1.8 times as long (docs/benchmarks/vision_tokenizer_2026-11-23.md).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        temporal_kernel: int = TEMPORAL_KERNEL,
        initial_scale: float = 1.0,
    ):
        super().__init__()
        self.stride, self.temporal_kernel, self.out_channels = stride, temporal_kernel, out_channels
        bound = initial_scale * (in_channels * kernel**2) ** -0.5  # as for one frame, whatever kt is
        initial = nn.initializer.Uniform(-bound, bound)
        shape = [out_channels, in_channels, temporal_kernel, kernel, kernel]
        self.weight = self.create_parameter(shape, default_initializer=initial)
        self.bias = self.create_parameter([out_channels], is_bias=True)

    def forward(self, frames: paddle.Tensor, batch: int, stream: Stream | None = None) -> paddle.Tensor:
        """frames [frames * batch, in, height, width] -> [frames * batch, out, height / stride, width / stride]."""
        padding = self.weight.shape[-1] // 2
        if stream is None and frames.shape[0] == batch:  # a picture has no past
            return F.conv2d(frames, self.weight[:, :, -1], self.bias, self.stride, padding)
        products = F.conv2d(frames, self._stacked(), None, self.stride, padding)
        by_delay = products.split(self.temporal_kernel, axis=1)[::-1] if self.temporal_kernel > 1 else [products]
        memory = (stream.recall(self) if stream else None) or [
            paddle.zeros([delay * batch, *by_delay[0].shape[1:]]) for delay in range(1, self.temporal_kernel)
        ]
        total = by_delay[0] + self.bias.reshape([1, -1, 1, 1])
        left = []
        for before, product in zip(memory, by_delay[1:], strict=True):
            delayed = paddle.concat([before, product])
            total = total + delayed[: frames.shape[0]]
            left.append(delayed[frames.shape[0] :])
        if stream is not None:
            stream.store(self, left)
        return total

    def _stacked(self) -> paddle.Tensor:
        """The weight as that of one 2D convolution, [kt * out, in, k, k]."""
        out_channels, in_channels, depth, *kernel = self.weight.shape
        return self.weight.transpose([2, 0, 1, 3, 4]).reshape([depth * out_channels, in_channels, *kernel])


class ResBlock(nn.Layer):
    """x + conv2(silu(conv1(silu(x)))), conv2 zero at the start (arXiv:1901.09321).

    There is no norm: over a frame it takes out brightness and contrast, which photographs are made of (docs/log.md).
    SiLU is `F.swish`: the gradient of Paddle 3.3.1's `F.silu` on CPU is NaN below -88.
    """

    def __init__(self, channels: int, temporal_kernel: int = TEMPORAL_KERNEL):
        super().__init__()
        self.conv1 = CausalConv(channels, channels, temporal_kernel=temporal_kernel)
        self.conv2 = CausalConv(channels, channels, temporal_kernel=temporal_kernel, initial_scale=0.0)

    def forward(self, frames: paddle.Tensor, batch: int, stream: Stream | None = None) -> paddle.Tensor:
        hidden = self.conv1(F.swish(frames), batch, stream)
        return frames + self.conv2(F.swish(hidden), batch, stream)


class Downsample(nn.Layer):
    """Halves height and width; with `temporal_stride` 2 it keeps the first frame and every second after it."""

    def __init__(self, in_channels: int, out_channels: int, temporal_stride: int, temporal_kernel: int):
        super().__init__()
        self.temporal_stride = temporal_stride
        self.conv = CausalConv(in_channels, out_channels, stride=2, temporal_kernel=temporal_kernel)

    def forward(self, frames: paddle.Tensor, batch: int, stream: Stream | None = None) -> paddle.Tensor:
        frames = self.conv(frames, batch, stream)
        if self.temporal_stride == 1:
            return frames
        by_time = frames.reshape([-1, batch, *frames.shape[1:]])
        return by_time[_first(self, stream) :: 2].reshape([-1, *frames.shape[1:]])


class Upsample(nn.Layer):
    """Doubles height and width and, with `temporal_stride` 2, the frames after the first.

    The copies of a frame differ behind the convolution, because they have another past.
    """

    def __init__(self, in_channels: int, out_channels: int, temporal_stride: int, temporal_kernel: int):
        super().__init__()
        self.temporal_stride = temporal_stride
        self.conv = CausalConv(in_channels, 4 * out_channels, temporal_kernel=temporal_kernel)

    def forward(self, frames: paddle.Tensor, batch: int, stream: Stream | None = None) -> paddle.Tensor:
        if self.temporal_stride == 2:
            by_time = frames.reshape([-1, 1, batch, *frames.shape[1:]])
            twice = paddle.concat([by_time, by_time], axis=1).reshape([-1, *frames.shape[1:]])
            frames = twice[batch:] if _first(self, stream) == 0 else twice
        return F.pixel_shuffle(self.conv(frames, batch, stream), 2)


def _first(layer: nn.Layer, stream: Stream | None) -> int:
    """0 in the chunk that begins a film, 1 in later ones."""
    if stream is None or stream.recall(layer) is None:
        if stream is not None:
            stream.store(layer, [])
        return 0
    return 1


def inflate(weights: dict[str, paddle.Tensor], video: nn.Layer) -> None:
    """Sets the video network to what the picture network is: 2D weights in the present, zeros in the past (§2.2.1).

    `weights` is the `state_dict` of the same network built with `temporal_kernel` 1.
    """
    for name, target in video.state_dict().items():
        weight = weights[name]
        if weight.shape != target.shape:
            past = target.shape[2] - weight.shape[2]
            zeros = paddle.zeros([*weight.shape[:2], past, *weight.shape[3:]])
            weight = paddle.concat([zeros, weight], axis=2)
        target.set_value(weight)
