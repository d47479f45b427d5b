"""Losses against NumPy."""

import numpy as np
import paddle
import pytest

from ernie5.config.vision_tokenizer import VisionLossConfig
from ernie5.tokenizers.vision.losses import coarse_loss, gradient_loss, peak_signal_to_noise, reconstruction_losses


@pytest.fixture
def frames() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return tuple(rng.uniform(-1, 1, (2, 3, 8, 8)).astype(np.float32) for _ in range(2))


def test_gradient_loss_is_the_mean_error_of_differences(frames):
    output, target = frames
    rows = np.abs(np.diff(output, axis=2) - np.diff(target, axis=2)).mean()
    columns = np.abs(np.diff(output, axis=3) - np.diff(target, axis=3)).mean()
    loss = gradient_loss(*map(paddle.to_tensor, frames))
    np.testing.assert_allclose(float(loss), (rows + columns) / 2, rtol=1e-5)


def test_gradient_loss_does_not_see_brightness(frames):
    output = paddle.to_tensor(frames[0])
    assert float(gradient_loss(output + 0.25, output)) < 1e-6


def test_coarse_loss_is_the_mean_error_at_half_and_quarter_size(frames):
    error = frames[0] - frames[1]
    halves = [np.abs(error.reshape(2, 3, 8 // n, n, 8 // n, n).mean(axis=(3, 5))).mean() for n in (2, 4)]
    np.testing.assert_allclose(float(coarse_loss(*map(paddle.to_tensor, frames))), np.mean(halves), rtol=1e-5)


def test_losses_carry_their_weights_and_a_weight_of_0_leaves_one_out(frames):
    output, target = map(paddle.to_tensor, frames)
    config = VisionLossConfig(l1=2.0, l2=3.0, gradient=0.0, coarse=0.0)
    losses = reconstruction_losses(output, target, config)
    assert losses.keys() == {"l1", "l2"}
    error = frames[0] - frames[1]
    np.testing.assert_allclose(float(losses["l1"]), 2 * np.abs(error).mean(), rtol=1e-5)
    np.testing.assert_allclose(float(losses["l2"]), 3 * (error**2).mean(), rtol=1e-5)


def test_psnr_is_that_of_the_range(frames):
    output, target = frames
    expected = [10 * np.log10(2**2 / ((a - b) ** 2).mean()) for a, b in zip(output, target, strict=True)]
    found = peak_signal_to_noise(paddle.to_tensor(output), paddle.to_tensor(target))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
