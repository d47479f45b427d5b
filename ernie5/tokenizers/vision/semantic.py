"""The semantic branch: features before quantisation are regressed to a teacher's (report §2.2.1)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.config.schema import VisionEncoderConfig
from ernie5.config.vision_tokenizer import SemanticConfig, VisionTokenizerConfig
from ernie5.errors import UserError

ORIENTATIONS = 8
GRADIENTS = "gradients"


class Teacher(Protocol):
    """Gives what the features of a cell should tell; `dim` numbers a cell."""

    dim: int

    def __call__(self, frames: paddle.Tensor) -> paddle.Tensor:
        """frames [N, 3, height, width] in [-1, 1] -> features [N, dim, h, w], of any grid."""


class OrientedGradients:
    """Histograms of oriented gradients: which edges a cell and its neighbourhood have, whatever their contrast.

    After Dalal and Triggs (CVPR 2005), with the latent cells as theirs and soft bins, |cos|**4 of the angle between.
    """

    dim = 2 * ORIENTATIONS

    def __init__(self, stride: int):
        self.stride = stride
        angles = paddle.arange(ORIENTATIONS, dtype="float32") * (3.141592653589793 / ORIENTATIONS)
        self._cos, self._sin = (f(angles).reshape([1, -1, 1, 1]) for f in (paddle.cos, paddle.sin))

    def __call__(self, frames: paddle.Tensor) -> paddle.Tensor:
        grey = F.pad(frames.mean(axis=1, keepdim=True), [1, 1, 1, 1], mode="replicate")
        across = grey[:, :, 1:-1, 2:] - grey[:, :, 1:-1, :-2]
        down = grey[:, :, 2:, 1:-1] - grey[:, :, :-2, 1:-1]
        strength = (across**2 + down**2).sqrt()
        along = (across * self._cos + down * self._sin) / (strength + 1e-6)
        cells = F.avg_pool2d(strength * along**4, self.stride)
        around = F.avg_pool2d(cells, 3, stride=1, padding=1)
        return paddle.concat([cells, around], axis=1)


class SavedTeacher:
    """A network saved with `paddle.jit.save`: frames [N, 3, height, width] in [-1, 1] -> features [N, dim, h, w]."""

    def __init__(self, path: str, sizes: Sequence[tuple[int, int]]):
        """Tries the network on one frame of each size (height, width). UserError if it does not give such features."""
        if not Path(f"{path}.json").is_file():
            raise UserError(f"train.loss.semantic.teacher: there is no {path}.json: give the path of paddle.jit.save")
        try:
            self._network = paddle.jit.load(path)
            self._network.eval()
            tried = [self._network(paddle.zeros([1, 3, *size])) for size in sizes]
        except Exception as error:  # of many types, whatever the file or the network raises
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise UserError(
                f"train.loss.semantic.teacher: {path} cannot be loaded and run ({reason}): save with paddle.jit.save a "
                "network of frames [N, 3, height, width], each of any size of the table"
            ) from None
        for features in tried:
            if not isinstance(features, paddle.Tensor) or features.ndim != 4:
                found = list(features.shape) if isinstance(features, paddle.Tensor) else type(features).__name__
                raise UserError(
                    f"train.loss.semantic.teacher: {path} gives {found}: it must give features [N, dim, h, w]"
                )
        self.dim = tried[0].shape[1]
        if any(features.shape[1] != self.dim for features in tried):
            raise UserError(f"train.loss.semantic.teacher: {path} gives features of other dims to other sizes: fix dim")

    def __call__(self, frames: paddle.Tensor) -> paddle.Tensor:
        return self._network(frames)


class SemanticBranch(nn.Layer):
    """A small head on the encoder's features. Its loss: one minus the cosine to the teacher, where that says anything.

    The teacher sees the last frame of each latent frame.
    """

    def __init__(self, encoder: VisionEncoderConfig, teacher: Teacher):
        super().__init__()
        width = encoder.channels[-1]
        self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.Swish(), nn.Linear(2 * width, teacher.dim))
        self.teacher, self.temporal_stride = teacher, encoder.temporal_stride

    def forward(self, features: paddle.Tensor, pixels: paddle.Tensor) -> paddle.Tensor:
        """features [batch, latent frames, h, w, channels], pixels [batch, frames, height, width, 3] -> scalar loss."""
        height, width = features.shape[2:4]
        shown = pixels[:, :: self.temporal_stride].flatten(0, 1).transpose([0, 3, 1, 2])
        with paddle.no_grad():
            wanted = self.teacher(shown)
            if wanted.shape[2:] != [height, width]:
                wanted = F.interpolate(wanted, [height, width], mode="area")
            wanted = wanted.transpose([0, 2, 3, 1])
            says = ((wanted**2).sum(axis=-1) > 1e-6).astype("float32")
        given = self.head(features).reshape(wanted.shape)
        apart = 1 - F.cosine_similarity(given, wanted, axis=-1)
        return (says * apart).sum() / says.sum().clip(min=1)


def make_teacher(config: SemanticConfig, tokenizer: VisionTokenizerConfig) -> Teacher:
    """The teacher that the settings name; a saved network is tried at each size of the table, or UserError."""
    if config.teacher == GRADIENTS:
        return OrientedGradients(tokenizer.encoder.stride)
    return SavedTeacher(config.teacher, [(size.height, size.width) for size in tokenizer.resolutions])
