"""The adversarial loss: a StyleGAN-type discriminator of frames, with R1 and LeCAM (report §2.2.1)."""

import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.config.vision_tokenizer import AdversarialConfig

SLOPE = 0.2  # of the leaky rectifiers (arXiv:1912.04958)
GROUP = 4  # frames over which the standard deviation is taken (arXiv:1710.10196 section 3, as arXiv:1912.04958 has it)
LECAM_DECAY = 0.99  # of the running means (arXiv:2104.03310)


class Discriminator(nn.Layer):
    """Residual levels, each after the first halving the frame, then the minibatch's deviation and one score a frame.

    Unlike arXiv:1912.04958 the last grid is averaged, not flattened, so that frames may have any size.
    """

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        self.conv_in = nn.Conv2D(3, channels[0], 3, padding=1)
        pairs = zip(channels, channels[1:], strict=False)
        self.blocks = nn.LayerList(_Block(narrow, wide) for narrow, wide in pairs)
        self.conv_out = nn.Conv2D(channels[-1] + 1, channels[-1], 3, padding=1)
        self.score = nn.Linear(channels[-1], 1)

    def forward(self, frames: paddle.Tensor) -> paddle.Tensor:
        """frames [N, 3, height, width] -> scores [N], above 0 for what looks real."""
        hidden = F.leaky_relu(self.conv_in(frames), SLOPE)
        for block in self.blocks:
            hidden = block(hidden)
        hidden = F.leaky_relu(self.conv_out(_with_deviation(hidden)), SLOPE)
        return self.score(hidden.mean(axis=[2, 3])).squeeze(-1)


class _Block(nn.Layer):
    """(skip(x) + conv(conv(x))) / sqrt 2, both ways halving height and width."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2D(in_channels, in_channels, 3, padding=1)
        self.conv2 = nn.Conv2D(in_channels, out_channels, 3, stride=2, padding=1)
        self.skip = nn.Conv2D(in_channels, out_channels, 1, stride=2, bias_attr=False)

    def forward(self, hidden: paddle.Tensor) -> paddle.Tensor:
        changed = F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(hidden), SLOPE)), SLOPE)
        return (self.skip(hidden) + changed) / 2**0.5


def _with_deviation(hidden: paddle.Tensor) -> paddle.Tensor:
    """Adds a channel: the mean deviation of each feature over a group of frames, so that sameness can be seen."""
    frames = hidden.shape[0]
    group = GROUP if frames % GROUP == 0 else frames
    grouped = hidden.reshape([group, frames // group, *hidden.shape[1:]])
    centred = grouped - grouped.mean(axis=0, keepdim=True)
    deviation = ((centred**2).mean(axis=0) + 1e-8).sqrt().mean(axis=[1, 2, 3])  # [frames / group]
    plane = deviation.tile([group]).reshape([frames, 1, 1, 1]).expand([frames, 1, *hidden.shape[2:]])
    return paddle.concat([hidden, plane], axis=1)


class Adversary(nn.Layer):
    """A discriminator with its losses and the running means that LeCAM needs."""

    def __init__(self, config: AdversarialConfig):
        super().__init__()
        self.config = config
        self.discriminator = Discriminator(config.channels)
        self.mean_real, self.mean_fake = 0.0, 0.0

    def generator_loss(self, fake: paddle.Tensor) -> paddle.Tensor:
        """What moves reconstructions [N, 3, height, width] towards what looks real."""
        scores = self.discriminator(fake)
        return -scores.mean() if self.config.loss == "hinge" else F.softplus(-scores).mean()

    def loss(self, real: paddle.Tensor, fake: paddle.Tensor) -> paddle.Tensor:
        """The discriminator's loss on frames [N, 3, height, width]; gradients do not reach `fake`."""
        config = self.config
        real = real.detach()
        real.stop_gradient = config.r1_weight == 0
        real_scores, fake_scores = self.discriminator(real), self.discriminator(fake.detach())
        if config.loss == "hinge":
            loss = (F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean()) / 2
        else:
            loss = F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean()
        if config.r1_weight:
            loss = loss + config.r1_weight / 2 * gradient_penalty(real_scores, real)
        if config.lecam_weight:
            loss = loss + config.lecam_weight * self._lecam(real_scores, fake_scores)
        return loss

    def _lecam(self, real_scores: paddle.Tensor, fake_scores: paddle.Tensor) -> paddle.Tensor:
        """Pulls scores towards the other side's running mean (arXiv:2104.03310 eq. 4, one-sided as in its code)."""
        self.mean_real = LECAM_DECAY * self.mean_real + (1 - LECAM_DECAY) * float(real_scores.mean())
        self.mean_fake = LECAM_DECAY * self.mean_fake + (1 - LECAM_DECAY) * float(fake_scores.mean())
        above = F.relu(real_scores - self.mean_fake) ** 2
        below = F.relu(self.mean_real - fake_scores) ** 2
        return above.mean() + below.mean()


def gradient_penalty(scores: paddle.Tensor, frames: paddle.Tensor) -> paddle.Tensor:
    """R1: mean squared norm of the scores' gradient at the frames (arXiv:1801.04406 eq. 9, without its gamma / 2)."""
    (gradient,) = paddle.grad(scores.sum(), frames, create_graph=True)
    return (gradient**2).reshape([frames.shape[0], -1]).sum(axis=1).mean()
