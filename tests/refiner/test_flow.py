import numpy as np
import paddle
import pytest

from ernie5.refiner import flow
from tests.tolerances import tolerance

TIMES = [0.0, 0.2, 0.5, 0.9, 1.0]


def pair(std: float = 1.0, n: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """Detail and noise, float32 [n], independent."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal(n) * std).astype(np.float32), rng.standard_normal(n).astype(np.float32)


@pytest.mark.parametrize("t", TIMES)
def test_path_is_straight_from_detail_to_noise(t: float):
    detail, noise = pair(n=5)
    x_t = flow.on_path(paddle.to_tensor(detail), paddle.to_tensor(noise), paddle.full([1], t))
    np.testing.assert_allclose(x_t.numpy(), detail + t * (noise - detail), **tolerance("float32"))


@pytest.mark.parametrize("t", TIMES)
def test_prediction_gives_the_exact_velocity(t: float):
    detail, noise = map(paddle.to_tensor, pair(std=3.0, n=50))
    time = paddle.full([1], t)
    velocity = flow.velocity(flow.rotated(detail, noise, time), flow.on_path(detail, noise, time), time)
    np.testing.assert_allclose(velocity.numpy(), (noise - detail).numpy(), rtol=1e-4, atol=1e-5)  # divides by 0.7


@pytest.mark.parametrize("t", TIMES)
def test_target_has_variance_1_and_is_not_told_by_the_input(t: float):
    detail, noise = map(paddle.to_tensor, pair())
    time = paddle.full([1], t)
    x_t = flow.network_input(flow.on_path(detail, noise, time), time).numpy()
    target = flow.rotated(detail, noise, time).numpy()
    np.testing.assert_allclose(np.cov(x_t, target), np.eye(2), atol=0.02)  # of 200,000 samples


def test_times_are_one_in_each_part():
    times = flow.draw_times(8, np.random.default_rng(1))
    assert times.dtype == np.float32
    np.testing.assert_array_equal(np.floor(times * 8), np.arange(8))


def gaussian_velocity(mean: float, std: float) -> flow.Velocity:
    """E[noise - detail | x_t] for detail of N(mean, std^2), in closed form."""

    def field(x: paddle.Tensor, t: float) -> paddle.Tensor:
        variance = (1 - t) ** 2 * std**2 + t**2
        return -mean + (t - (1 - t) * std**2) / variance * (x - (1 - t) * mean)

    return field


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_straight_paths_are_exact_in_any_number_of_steps(method: flow.Method, num_steps: int):
    detail, noise = map(paddle.to_tensor, pair(n=10))
    made = flow.integrate(lambda x, t: noise - detail, noise, num_steps, method)
    np.testing.assert_allclose(made.numpy(), detail.numpy(), rtol=1e-5, atol=1e-5)


def test_one_euler_step_gives_the_mean_of_a_gaussian():
    noise = paddle.to_tensor(pair(n=20)[1])
    made = flow.integrate(gaussian_velocity(mean=2.0, std=0.5), noise, num_steps=1)
    np.testing.assert_allclose(made.numpy(), 2.0, rtol=1e-5)


@pytest.mark.parametrize("method, order", [("euler", 1), ("heun", 2)])
def test_sampler_converges_to_the_gaussian_at_its_order(method: flow.Method, order: int):
    noise = paddle.to_tensor(pair(n=20)[1]).astype("float64")
    exact = 2.0 + 0.5 * noise.numpy()  # the flow of a Gaussian to a Gaussian is linear
    field = gaussian_velocity(mean=2.0, std=0.5)
    errors = [np.abs(flow.integrate(field, noise, n, method).numpy() - exact).max() for n in (40, 80)]
    assert errors[1] < 0.05
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)
