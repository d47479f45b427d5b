"""Rectified flow (arXiv:2209.03003): straight paths between detail and noise, and the way back along them.

x_t = (1 - t) * detail + t * noise; the velocity of a path is noise - detail, and t = 1 is where sampling begins. The
sampler is our own because no scheduler library installs beside Paddle 3.3.1 (docs/decisions/0005-refiner.md).
"""

from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
import paddle

Array = TypeVar("Array", np.ndarray, paddle.Tensor)
Velocity = Callable[[Array, float], Array]  # (x_t, t) -> velocity, both of one shape
Method = Literal["euler", "heun"]


def draw_times(batch: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [batch]: sample i is uniform in [i / batch, (i + 1) / batch), at one offset that all share.

    Evenly spread times make losses vary less.
    """
    return ((np.arange(batch) + rng.random()) / batch).astype(np.float32)


def on_path(detail: paddle.Tensor, noise: paddle.Tensor, t: paddle.Tensor) -> paddle.Tensor:
    """x_t; t broadcasts over the detail."""
    return (1 - t) * detail + t * noise


def rotated(detail: paddle.Tensor, noise: paddle.Tensor, t: paddle.Tensor) -> paddle.Tensor:
    """What the network predicts: ((1 - t) * noise - t * detail) / r with r = sqrt((1 - t)^2 + t^2).

    Of detail and noise with variance 1 it is the part of the velocity that x_t does not tell linearly: uncorrelated
    with x_t and of variance 1 at every t, so that an unweighted squared error is fair to all times (arXiv:2206.00364
    section 5, for this path; it is the v of arXiv:2202.00512 at the angle atan(t / (1 - t))).
    """
    return ((1 - t) * noise - t * detail) / _radius(t)


def velocity(prediction: paddle.Tensor, x_t: paddle.Tensor, t: paddle.Tensor) -> paddle.Tensor:
    """noise - detail, of the prediction of `rotated` and x_t: exact where the prediction is."""
    radius = _radius(t)
    return (2 * t - 1) / radius**2 * x_t + prediction / radius


def network_input(x_t: paddle.Tensor, t: paddle.Tensor) -> paddle.Tensor:
    """x_t with variance 1."""
    return x_t / _radius(t)


def integrate(field: Velocity[Array], noise: Array, num_steps: int, method: Method = "euler") -> Array:
    """From noise at t = 1 to detail at t = 0 in equal steps; Heun's method asks twice a step.

    One step of Euler gives the conditional mean of the detail, the best guess by squared error; more give a sample.
    """
    x, times = noise, np.linspace(1.0, 0.0, num_steps + 1).tolist()
    for start, end in zip(times, times[1:], strict=False):
        slope = field(x, start)
        if method == "heun":
            slope = (slope + field(x + (end - start) * slope, end)) / 2
        x = x + (end - start) * slope
    return x


def _radius(t: paddle.Tensor) -> paddle.Tensor:
    return ((1 - t) ** 2 + t**2).sqrt()
