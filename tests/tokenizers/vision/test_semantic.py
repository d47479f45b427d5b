"""The semantic branch and its teachers."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from ernie5.config.schema import ResolutionConfig, VisionEncoderConfig
from ernie5.config.vision_tokenizer import SemanticConfig, VisionTokenizerConfig
from ernie5.errors import UserError
from ernie5.tokenizers.vision.semantic import ORIENTATIONS, OrientedGradients, SemanticBranch, make_teacher

ENCODER = VisionEncoderConfig(channels=(8, 8, 16), temporal_stride=2)
SIZE = ResolutionConfig(height=8, width=8, scales=((1, 1), (2, 2)))
TOKENIZER = VisionTokenizerConfig(encoder=ENCODER, bits=6, resolutions=(SIZE,))


def stripes(angle: float) -> paddle.Tensor:
    """One frame [1, 3, 16, 16] whose brightness waves in this direction (radians from the x axis)."""
    y, x = np.mgrid[:16, :16]
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 0.9)
    return paddle.to_tensor(np.broadcast_to(wave, (1, 3, 16, 16)).astype(np.float32))


@pytest.mark.parametrize("k", range(ORIENTATIONS))
def test_a_stripe_is_strongest_in_its_own_orientation(k: int):
    features = OrientedGradients(4)(stripes(np.pi * k / ORIENTATIONS))
    assert features.shape == [1, 2 * ORIENTATIONS, 4, 4]
    assert int(features[0, :ORIENTATIONS].mean(axis=[1, 2]).argmax()) == k


def test_orientation_does_not_change_with_contrast():
    teacher, frame = OrientedGradients(4), stripes(0.3)
    strong, weak = (teacher(frame * contrast).numpy().ravel() for contrast in (1.0, 0.2))
    np.testing.assert_allclose(strong @ weak, np.linalg.norm(strong) * np.linalg.norm(weak), rtol=1e-4)


def test_branch_learns_what_the_teacher_says():
    branch = SemanticBranch(ENCODER, OrientedGradients(4))
    features, pixels = paddle.randn([2, 2, 2, 2, 16]), paddle.randn([2, 3, 8, 8, 3])
    optimizer = paddle.optimizer.Adam(1e-2, parameters=branch.parameters())
    losses = []
    for _ in range(60):
        losses.append(branch(features, pixels))
        losses[-1].backward()
        optimizer.step()
        optimizer.clear_grad()
    assert float(losses[-1]) < 0.3 * float(losses[0])


def test_gradient_reaches_the_features():
    branch, features = SemanticBranch(ENCODER, OrientedGradients(4)), paddle.randn([1, 1, 2, 2, 16])
    features.stop_gradient = False
    branch(features, paddle.randn([1, 1, 8, 8, 3])).backward()
    assert float(features.grad.abs().sum()) > 0


def test_an_empty_frame_says_nothing():
    branch = SemanticBranch(ENCODER, OrientedGradients(4))
    assert float(branch(paddle.randn([1, 1, 2, 2, 16]), paddle.zeros([1, 1, 8, 8, 3]))) == 0


class Network(paddle.nn.Layer):
    """[N, 3, H, W] -> features of another grid than the latents', or of none."""

    def __init__(self, has_grid: bool):
        super().__init__()
        self.conv, self.has_grid = paddle.nn.Conv2D(3, 5, 2, stride=2), has_grid

    def forward(self, frames: paddle.Tensor) -> paddle.Tensor:
        features = self.conv(frames)
        return features if self.has_grid else features.mean(axis=[2, 3])


def save(network: paddle.nn.Layer, path: Path) -> str:
    network.eval()
    spec = paddle.static.InputSpec([None, 3, None, None], "float32")
    paddle.jit.save(paddle.jit.to_static(network, input_spec=[spec], full_graph=True), str(path))
    return str(path)


def test_a_saved_network_teaches(tmp_path: Path):
    teacher = make_teacher(SemanticConfig(weight=1.0, teacher=save(Network(True), tmp_path / "net")), TOKENIZER)
    assert teacher.dim == 5
    branch = SemanticBranch(ENCODER, teacher)
    assert float(branch(paddle.randn([1, 2, 2, 2, 16]), paddle.randn([1, 3, 8, 8, 3]))) > 0


def test_a_saved_network_without_a_grid_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"gives \[1, 5\]: it must give features \[N, dim, h, w\]"):
        make_teacher(SemanticConfig(weight=1.0, teacher=save(Network(False), tmp_path / "net")), TOKENIZER)


def test_a_missing_network_is_refused():
    with pytest.raises(UserError, match="there is no nowhere/net.json"):
        make_teacher(SemanticConfig(weight=1.0, teacher="nowhere/net"), TOKENIZER)


class MeanTeacher:
    """Tells whether a frame is bright or dark."""

    dim = 2

    def __call__(self, frames: paddle.Tensor) -> paddle.Tensor:
        mean = frames.mean(axis=[1, 2, 3], keepdim=True).expand([len(frames), 1, 2, 2])
        return paddle.concat([mean, paddle.ones_like(mean)], axis=1)


def test_teacher_sees_the_last_frame_of_each_latent_frame():
    branch, film = SemanticBranch(ENCODER, MeanTeacher()), paddle.arange(5, dtype="float32").reshape([1, 5, 1, 1, 1])
    features = paddle.ones([1, 3, 2, 2, 2])
    said = paddle.to_tensor([[0.0, 1], [2, 1], [4, 1]]).reshape([1, 3, 1, 1, 2]).expand([1, 3, 2, 2, 2])
    branch.head.forward = lambda _: said
    assert float(branch(features, film.expand([1, 5, 8, 8, 3]))) < 1e-5
