"""A small convolutional U-Net over the frames of a film, told time and strength.

Convolutions see one frame; frames talk to each other by `TemporalMixing`, in both directions, because a refiner works
on a finished film. Frames inside are [batch * frames, channels, height, width], the frames of a film side by side.
SiLU is `F.swish`: the gradient of Paddle 3.3.1's `F.silu` is NaN on CPU below -88, which a lone pixel behind a group
norm reaches.
"""

import math

import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.config.refiner import RefinerConfig

COLOURS = 3
MAX_PERIOD = 1000.0  # of the embedding: times and strengths in [0, 1] are told apart to a thousandth


class UNet(nn.Layer):
    """Noisy detail beside the upsampled input -> a prediction of the detail's shape, zero before training."""

    def __init__(self, config: RefinerConfig):
        super().__init__()
        channels, size = config.channels, config.embedding_size
        self.embed = nn.Sequential(nn.Linear(size, 2 * size), nn.Swish(), nn.Linear(2 * size, 2 * size), nn.Swish())
        self.embedding_size = size
        self.conv_in = nn.Conv2D(2 * COLOURS, channels[0], 3, padding=1)
        levels = range(len(channels))
        self.down = nn.LayerList([Level(channels[i], 2 * size, config.blocks_per_level) for i in levels])
        self.shrink = nn.LayerList(
            [nn.Conv2D(channels[i], channels[i + 1], 3, 2, 1, bias_attr=False) for i in levels[:-1]]
        )
        self.enlarge = nn.LayerList(
            [nn.Conv2D(channels[i + 1], 4 * channels[i], 1, bias_attr=False) for i in levels[:-1]]
        )
        self.up = nn.LayerList([Level(channels[i], 2 * size, config.blocks_per_level) for i in levels[:-1]])
        self.norm_out = frame_norm(channels[0])
        self.conv_out = nn.Conv2D(channels[0], COLOURS, 3, padding=1, weight_attr=nn.initializer.Constant(0.0))

    def forward(
        self, noisy: paddle.Tensor, upsampled: paddle.Tensor, t: paddle.Tensor, strength: paddle.Tensor
    ) -> paddle.Tensor:
        """Both pixels float32 [batch, frames, height, width, 3], t and strength [batch] -> as the pixels."""
        batch, num_frames, height, width, _ = noisy.shape
        embedding = self.embed(paddle.concat([sinusoids(x, self.embedding_size // 2) for x in (t, strength)], -1))
        embedding = embedding.repeat_interleave(num_frames, 0)  # [batch * frames, 2 * embedding_size]
        both = paddle.concat([noisy, upsampled], -1).reshape([batch * num_frames, height, width, 2 * COLOURS])
        hidden = self.conv_in(both.transpose([0, 3, 1, 2]))
        skips = []
        for i, level in enumerate(self.down):
            hidden = level(hidden, embedding, num_frames)
            if i < len(self.shrink):
                skips.append(hidden)
                hidden = self.shrink[i](hidden)
        for i in reversed(range(len(self.up))):
            hidden = F.pixel_shuffle(self.enlarge[i](hidden), 2) + skips[i]
            hidden = self.up[i](hidden, embedding, num_frames)
        made = self.conv_out(F.swish(self.norm_out(hidden)))
        return made.transpose([0, 2, 3, 1]).reshape(noisy.shape)


class Level(nn.Layer):
    """What happens at one size: residual blocks frame by frame, then one look at the neighbouring frames."""

    def __init__(self, channels: int, embedding_size: int, num_blocks: int):
        super().__init__()
        self.blocks = nn.LayerList([ResidualBlock(channels, embedding_size) for _ in range(num_blocks)])
        self.mixing = TemporalMixing(channels)

    def forward(self, frames: paddle.Tensor, embedding: paddle.Tensor, num_frames: int) -> paddle.Tensor:
        for block in self.blocks:
            frames = block(frames, embedding)
        return self.mixing(frames, num_frames)


class ResidualBlock(nn.Layer):
    """Two convolutions; the embedding scales and shifts between them. The identity before training."""

    def __init__(self, channels: int, embedding_size: int):
        super().__init__()
        self.norm1, self.norm2 = frame_norm(channels), frame_norm(channels)
        # Without biases, which the norms' replace: Paddle's CPU kernel adds one in the time of the convolution.
        zeros = nn.initializer.Constant(0.0)
        self.conv1 = nn.Conv2D(channels, channels, 3, padding=1, bias_attr=False)
        self.conv2 = nn.Conv2D(channels, channels, 3, padding=1, weight_attr=zeros, bias_attr=False)
        self.modulation = nn.Linear(embedding_size, 2 * channels)

    def forward(self, frames: paddle.Tensor, embedding: paddle.Tensor) -> paddle.Tensor:
        scale, shift = self.modulation(embedding).unsqueeze([-1, -2]).split(2, axis=1)
        hidden = self.norm2(self.conv1(F.swish(self.norm1(frames))))
        return frames + self.conv2(F.swish(hidden * (1 + scale) + shift))


class TemporalMixing(nn.Layer):
    """Adds a linear map of the differences to the frame before and the frame after, nothing before training.

    A picture has no neighbours and a still film no differences, so both give what the frame alone gives; and a refiner
    that saw pictures alone treats films frame by frame. At the ends of a film the missing neighbour is the
    frame itself.
    """

    def __init__(self, channels: int):
        super().__init__()
        zeros = nn.initializer.Constant(0.0)
        self.conv = nn.Conv2D(2 * channels, channels, 1, weight_attr=zeros, bias_attr=False)

    def forward(self, frames: paddle.Tensor, num_frames: int) -> paddle.Tensor:
        if num_frames == 1:
            return frames
        film = frames.reshape([-1, num_frames, *frames.shape[1:]])
        before = paddle.concat([film[:, :1], film[:, :-1]], 1) - film
        after = paddle.concat([film[:, 1:], film[:, -1:]], 1) - film
        differences = paddle.concat([before, after], 2).reshape([frames.shape[0], -1, *frames.shape[2:]])
        return frames + self.conv(differences)


def sinusoids(values: paddle.Tensor, size: int) -> paddle.Tensor:
    """float32 [batch] in [0, 1] -> [batch, size]: sines and cosines of geometric periods (arXiv:1706.03762 §3.5)."""
    half = size // 2
    rates = paddle.exp(paddle.arange(half, dtype="float32") * (math.log(MAX_PERIOD) / max(half - 1, 1)))
    angles = values.unsqueeze(-1) * rates
    return paddle.concat([angles.sin(), angles.cos()], -1)


def frame_norm(channels: int) -> nn.GroupNorm:
    """Groups of eight channels of one frame."""
    return nn.GroupNorm(channels // 8 if channels % 8 == 0 else 1, channels)
