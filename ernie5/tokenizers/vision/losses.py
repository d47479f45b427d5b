"""What the autoencoder is trained on, without any downloaded network."""

import paddle
import paddle.nn.functional as F

from ernie5.config.vision_tokenizer import VisionLossConfig


def reconstruction_losses(
    output: paddle.Tensor, target: paddle.Tensor, config: VisionLossConfig
) -> dict[str, paddle.Tensor]:
    """Weighted distances of frames [N, 3, height, width] from what they should be, without those of weight 0.

    Edges and coarse forms stand in for a perceptual network: both look at more than one pixel.
    """
    losses = {}
    if config.l1:
        losses["l1"] = config.l1 * F.l1_loss(output, target)
    if config.l2:
        losses["l2"] = config.l2 * F.mse_loss(output, target)
    if config.gradient:
        losses["gradient"] = config.gradient * gradient_loss(output, target)
    if config.coarse:
        losses["coarse"] = config.coarse * coarse_loss(output, target)
    return losses


def gradient_loss(output: paddle.Tensor, target: paddle.Tensor) -> paddle.Tensor:
    """Mean absolute error of the differences between neighbouring pixels, frames [N, 3, height, width]."""
    error = output - target
    rows = (error[:, :, 1:] - error[:, :, :-1]).abs().mean()
    columns = (error[:, :, :, 1:] - error[:, :, :, :-1]).abs().mean()
    return (rows + columns) / 2


def coarse_loss(output: paddle.Tensor, target: paddle.Tensor) -> paddle.Tensor:
    """Mean absolute error at half and at quarter size, frames [N, 3, height, width]."""
    error = output - target
    half = F.avg_pool2d(error, 2, ceil_mode=True)
    return (half.abs().mean() + F.avg_pool2d(half, 2, ceil_mode=True).abs().mean()) / 2


def peak_signal_to_noise(output: paddle.Tensor, target: paddle.Tensor) -> paddle.Tensor:
    """PSNR in dB of each frame [N, ...], values in [-1, 1] -> [N]."""
    error = ((output - target) ** 2).reshape([output.shape[0], -1]).mean(axis=1)
    return 10 * paddle.log10(4 / error.clip(min=1e-10))
