"""The compiled AdamW step against Paddle's, bit for bit in float32, and against NumPy in float64."""

import math

import numpy as np
import paddle
import pytest

from ernie5.ops import backend
from ernie5.ops.adamw import AdamW, scale_all, sums_of_squares

pytest.importorskip("ernie5_ops")
SHAPES = [(1,), (7,), (3, 11), (2, 5, 200), (70_001,)]  # the last is cut in pieces
BETAS, EPSILON, DECAY = (0.875, 0.9375), 2.0**-20, 0.125
RATES = [2.0**-5, 2.0**-4, 0.0, 2.0**-6]
STEPS = range(4)


@pytest.fixture(autouse=True)
def compiled():
    with backend.using("native"):
        assert all(map(backend.is_native, ("adamw", "sums_of_squares", "scale_all")))
        yield


def make(dtype: str = "float32", decayed: tuple[int, ...] = (1, 3, 4)) -> tuple[AdamW, list[paddle.Tensor]]:
    rng = np.random.default_rng(0)
    parameters = []
    for shape in SHAPES:
        start = paddle.nn.initializer.Assign(rng.normal(size=shape).astype(np.float32))
        parameters.append(paddle.create_parameter(list(shape), dtype, default_initializer=start))
    parameters[2].optimize_attr["learning_rate"] = 0.1
    names = {parameters[place].name for place in decayed}
    optimizer = AdamW(
        0.0,
        *BETAS,
        EPSILON,
        parameters,
        weight_decay=DECAY,
        apply_decay_param_fun=names.__contains__,
        multi_precision=dtype != "float32",
    )
    return optimizer, parameters


def gradients_of(step: int) -> list[np.ndarray]:
    """Of sizes from 1e-6 to 10."""
    rng = np.random.default_rng(100 + step)
    return [(rng.normal(size=shape) * 10.0 ** rng.integers(-6, 2)).astype(np.float32) for shape in SHAPES]


def take_steps(optimizer, parameters, mode: str, steps=STEPS, without: int | None = None) -> None:
    with backend.using(mode):
        for step in steps:
            for place, (parameter, gradient) in enumerate(zip(parameters, gradients_of(step), strict=True)):
                if place != without:
                    parameter.grad = paddle.to_tensor(gradient).astype(parameter.dtype)
            optimizer.set_lr(RATES[step])
            optimizer.step()
            optimizer.clear_grad(set_to_zero=False)


def everything(optimizer, parameters) -> list[np.ndarray]:
    """Values and state, in an order that does not depend on the parameters' names."""
    state = [tensor for by_name in optimizer._accumulators.values() for tensor in by_name.values()]
    return [tensor.astype("float32").numpy() for tensor in [*parameters, *state, *optimizer._master_weights.values()]]


def assert_equal(ones: list[np.ndarray], others: list[np.ndarray]) -> None:
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_bit_is_paddle_s():
    found, expected = make(), make()
    take_steps(*found, "native")
    take_steps(*expected, "reference")
    assert_equal(everything(*found), everything(*expected))


def test_the_formula():
    optimizer, parameters = make()
    values = [parameter.numpy().astype(np.float64) for parameter in parameters]
    moments = [(np.zeros(shape), np.zeros(shape)) for shape in SHAPES]
    take_steps(optimizer, parameters, "native")
    for step, base_rate in enumerate(RATES):
        for place, gradient in enumerate(gradients_of(step)):
            rate, decay = base_rate * (0.1 if place == 2 else 1), DECAY * (place in (1, 3, 4))
            first, second = moments[place]
            first = BETAS[0] * first + (1 - BETAS[0]) * gradient
            second = BETAS[1] * second + (1 - BETAS[1]) * gradient.astype(np.float64) ** 2
            moments[place] = first, second
            mean, square = first / (1 - BETAS[0] ** (step + 1)), second / (1 - BETAS[1] ** (step + 1))
            values[place] = values[place] * (1 - rate * decay) - rate * mean / (np.sqrt(square) + EPSILON)
    for parameter, value in zip(parameters, values, strict=True):
        np.testing.assert_allclose(parameter.numpy(), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("modes", [("native", "reference"), ("reference", "native")])
def test_one_goes_on_with_the_other_s_state(modes):
    found, expected = make(), make()
    take_steps(*found, modes[0], range(2))
    take_steps(*found, modes[1], range(2, 4))
    take_steps(*expected, "reference")
    assert_equal(everything(*found), everything(*expected))


def test_a_parameter_without_gradient_stays_and_gets_no_state():
    optimizer, parameters = make()
    before = parameters[1].numpy()
    take_steps(optimizer, parameters, "native", without=1)
    np.testing.assert_array_equal(parameters[1].numpy(), before)
    assert parameters[1].name not in optimizer._accumulators["moment1"]


def test_a_frozen_parameter_stays():
    optimizer, parameters = make()
    before = parameters[4].numpy()
    parameters[4].stop_gradient = True
    take_steps(optimizer, parameters, "native")
    np.testing.assert_array_equal(parameters[4].numpy(), before)


def test_bfloat16_has_a_master_copy_that_is_updated_as_float32():
    optimizer, parameters = make("bfloat16")
    started = [parameter.astype("float32").numpy() for parameter in parameters]
    expected, exact = make()
    for one, value in zip(exact, started, strict=True):
        one.set_value(value)
    with backend.using("native"):
        for step in range(3):
            for parameter, other, gradient in zip(parameters, exact, gradients_of(step), strict=True):
                parameter.grad = paddle.to_tensor(gradient).astype("bfloat16")
                other.grad = parameter.grad.astype("float32")
            for one in (optimizer, expected):
                one.set_lr(RATES[step])
                one.step()
    for parameter, other in zip(parameters, exact, strict=True):
        np.testing.assert_array_equal(optimizer._master_weights[parameter.name].numpy(), other.numpy())
        np.testing.assert_array_equal(parameter.astype("float32").numpy(), other.astype("bfloat16").astype("float32"))


@pytest.mark.parametrize("extra", [{"amsgrad": True}, {"grad_clip": paddle.nn.ClipGradByGlobalNorm(0.5)}])
def test_what_the_compiled_step_lacks_is_left_to_paddle(extra):
    results = []
    for kind in (AdamW, paddle.optimizer.AdamW):
        parameter = paddle.create_parameter([4], "float32", default_initializer=paddle.nn.initializer.Constant(1.0))
        parameter.grad = paddle.to_tensor([1.0, 2.0, -3.0, 0.0])
        kind(0.1, parameters=[parameter], apply_decay_param_fun=lambda _: True, **extra).step()
        results.append(parameter.numpy())
    np.testing.assert_array_equal(*results)


def test_the_autograd_engine_sees_that_a_parameter_was_changed():
    parameter = paddle.create_parameter([4], "float32")
    optimizer = AdamW(0.1, parameters=[parameter], apply_decay_param_fun=lambda _: True)
    parameter.grad = paddle.ones([4])
    before = parameter.inplace_version
    optimizer.step()
    assert parameter.inplace_version > before


def test_sums_of_squares_and_scaling():
    arrays = [np.random.default_rng(place).normal(size=shape).astype(np.float32) for place, shape in enumerate(SHAPES)]
    tensors = [paddle.to_tensor(array) for array in [*arrays, np.zeros([0], np.float32)]]
    tensors[1].stop_gradient = False  # as of a gradient that has one itself
    expected = [float((array.astype(np.float64) ** 2).sum()) for array in arrays] + [0.0]
    np.testing.assert_allclose(sums_of_squares(tensors), expected, rtol=1e-6)
    scale_all(tensors, 0.25)
    assert_equal([tensor.numpy() for tensor in tensors[:-1]], [array * np.float32(0.25) for array in arrays])
    assert sums_of_squares([]) == []


def test_a_sum_of_many_squares_keeps_its_digits():
    ones = paddle.full([40_000_000], 1.1)
    assert sums_of_squares([ones])[0] == pytest.approx(40_000_000 * float(np.float32(1.1)) ** 2, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_shows(bad):
    assert not math.isfinite(sums_of_squares([paddle.to_tensor([1.0, bad])])[0])


def test_a_gradient_that_is_not_contiguous_is_read_in_its_order():
    results = []
    for mode in ("native", "reference"):
        parameter = paddle.create_parameter([3, 4], "float32", default_initializer=paddle.nn.initializer.Constant(1.0))
        parameter.grad = paddle.arange(12, dtype="float32").reshape([4, 3]).transpose([1, 0])
        with backend.using(mode):
            AdamW(0.1, parameters=[parameter], apply_decay_param_fun=lambda _: True).step()
        results.append(parameter.numpy())
    np.testing.assert_array_equal(*results)


def test_wrong_inputs_are_told_in_one_sentence():
    settings = (False, 0.1, 0.5, 0.5, 0.5, 0.5)
    with pytest.raises(OSError, match=r"table has shape \[7, 1\], expected \[8, -1\]"):
        backend.call("adamw", [paddle.zeros([7, 1], "int64")], *settings)
    with pytest.raises(OSError, match="table has dtype int32, expected int64"):
        backend.call("adamw", [paddle.zeros([8, 1], "int32")], *settings)
    with pytest.raises(OSError, match="tensors has dtype float64, expected float32"):
        backend.call("sums_of_squares", [[paddle.ones([4]), paddle.ones([4], "float64")]])
    with pytest.raises(OSError, match="use float32, bfloat16 or float64"):
        backend.call("sums_of_squares", [[paddle.ones([4], "int32")]])
