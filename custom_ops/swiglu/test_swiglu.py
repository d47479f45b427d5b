"""The compiled SwiGLU gate against its definition, NumPy in float64 and central differences."""

import numpy as np
import paddle
import pytest

from ernie5.ops import backend
from ernie5.ops.swiglu import swiglu
from tests.finite_differences import numeric_gradient
from tests.tolerances import tolerance

pytest.importorskip("ernie5_ops")
SHAPES = [(1, 1), (3, 5), (130, 257), (2, 3, 16), (0, 8), (4,)]


@pytest.fixture(autouse=True)
def compiled():
    with backend.using("native"):
        assert backend.is_native("swiglu") and backend.is_native("swiglu_packed")
        yield


def formula(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    return gate / (1 + np.exp(-gate)) * up


def packed(gate: paddle.Tensor, up: paddle.Tensor) -> paddle.Tensor:
    return swiglu(paddle.concat([gate, up], axis=-1))


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, shape)


def tensor(array: np.ndarray, dtype: str = "float32") -> paddle.Tensor:
    made = paddle.to_tensor(array).astype(dtype).detach()
    made.stop_gradient = False
    return made


def with_gradients(function, arrays, cotangent, dtype="float32") -> list[np.ndarray]:
    inputs = [tensor(array, dtype) for array in arrays]
    output = function(*inputs)
    grads = paddle.grad(output, inputs, tensor(cotangent, dtype))
    assert all(one.dtype == inputs[0].dtype for one in (output, *grads))
    return [one.astype("float64").numpy() for one in (output, *grads)]


@pytest.mark.parametrize("function", [swiglu, packed])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_equals_the_formula(shape, dtype, function):
    gate, up = tensor(numbers(*shape), dtype), tensor(numbers(*shape, seed=1), dtype)
    found = function(gate, up)
    assert found.dtype == gate.dtype and found.shape == list(shape)
    expected = formula(gate.astype("float64").numpy(), up.astype("float64").numpy())
    np.testing.assert_allclose(found.astype("float64").numpy(), expected, **tolerance(dtype))


@pytest.mark.parametrize("function", [swiglu, packed])
@pytest.mark.parametrize("shape", [(3, 5), (130, 257)])
def test_gradients_are_the_definition_s(shape, function):
    arrays, cotangent = (numbers(*shape), numbers(*shape, seed=1)), numbers(*shape, seed=2)
    found = with_gradients(function, arrays, cotangent)
    with backend.using("reference"):
        expected = with_gradients(function, arrays, cotangent)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", [swiglu, packed])
def test_gradients_are_those_of_central_differences(function):
    gate, up, cotangent = numbers(3, 7), numbers(3, 7, seed=1), numbers(3, 7, seed=2)
    _, by_gate, by_up = with_gradients(function, (gate, up), cotangent, "float64")
    expected = numeric_gradient(lambda value: (formula(value, up) * cotangent).sum(), gate)
    np.testing.assert_allclose(by_gate, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_up, formula(gate, cotangent), **tolerance("float64"))


def test_gradients_of_bfloat16_are_rounded_once():
    arrays = [tensor(numbers(5, 9, seed=seed), "bfloat16").astype("float32").numpy() for seed in range(3)]
    found = with_gradients(swiglu, arrays[:2], arrays[2], "bfloat16")
    expected = with_gradients(swiglu, arrays[:2], arrays[2])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, paddle.to_tensor(other).astype("bfloat16").astype("float64").numpy())


def test_gates_far_from_zero_are_open_or_closed():
    gate = paddle.to_tensor([-1e30, -1000.0, -100.0, 0.0, 100.0, 1000.0])
    expected = [0, 0, 0, 0, 200, 2000]
    np.testing.assert_allclose(swiglu(gate, paddle.full([6], 2.0)).numpy()[1:], expected[1:], atol=1e-30)
    assert np.isfinite(swiglu(gate, paddle.full([6], 2.0)).numpy()).all()
    _, by_gate, by_up = with_gradients(swiglu, (gate.numpy(), np.ones(6)), np.ones(6))
    np.testing.assert_allclose(by_gate[1:], [0, 0, 0.5, 1, 1], atol=1e-30)
    np.testing.assert_allclose(by_up[1:], [0, 0, 0, 100, 1000], atol=1e-30)


def test_what_is_not_finite_shows():
    assert np.isnan(swiglu(paddle.to_tensor([np.nan]), paddle.ones([1])).numpy()).all()


def test_input_that_is_not_contiguous_is_read_in_its_order():
    gate, up = numbers(8, 6), numbers(8, 6, seed=1)
    found = swiglu(tensor(gate.T.copy()).transpose([1, 0]), tensor(up))
    np.testing.assert_array_equal(found.numpy(), swiglu(tensor(gate), tensor(up)).numpy())


@pytest.mark.parametrize("seed", range(10))
def test_any_shape(seed):
    rng = np.random.default_rng(seed)
    shape = [int(size) for size in rng.integers(1, 300, 2)]
    arrays = numbers(*shape, seed=seed), numbers(*shape, seed=seed + 1)
    for function in (swiglu, packed):
        found = with_gradients(function, arrays, np.ones(shape))[0]
        np.testing.assert_allclose(found, formula(*arrays), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("operator", "inputs", "message"),
    [
        ("swiglu", [paddle.ones([2, 4]), paddle.ones([2, 5])], r"up has shape \[2, 5\], expected \[2, 4\]"),
        ("swiglu", [paddle.ones([2, 4]), paddle.ones([2, 4], "float64")], "up has dtype float64, expected float32"),
        ("swiglu_packed", [paddle.ones([2, 5])], r"x has shape \[2, 5\], but its last dim .* must be even"),
        ("swiglu_packed", [paddle.ones([2, 4], "int32")], "use float32, bfloat16 or float64"),
    ],
)
def test_a_wrong_input_is_told_in_one_sentence(operator, inputs, message):
    with pytest.raises(OSError, match=message):
        backend.call(operator, inputs)


class Gate(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([6, 16])

    def forward(self, x):
        gate_up = paddle.matmul(x, self.weight)
        return swiglu(gate_up) + swiglu(gate_up[:, :8], gate_up[:, 8:])


@pytest.mark.filterwarnings("ignore:Tensor do not have 'place':UserWarning")  # Paddle's own, of its full_like
def test_it_works_in_a_traced_program_with_its_gradients():
    x, layer, grads = tensor(numbers(5, 6)), Gate(), []
    for forward in (layer, paddle.jit.to_static(layer, full_graph=True)):
        forward(x).sum().backward()
        grads.append(layer.weight.grad.numpy())
        layer.clear_gradients()
    np.testing.assert_array_equal(*grads)


def test_it_works_in_a_saved_program_of_any_number_of_rows(tmp_path):
    layer, x = Gate(), paddle.to_tensor(numbers(5, 6).astype(np.float32))
    expected = layer(x).numpy()
    paddle.jit.save(layer, str(tmp_path / "gate"), input_spec=[paddle.static.InputSpec([None, 6], "float32")])
    np.testing.assert_array_equal(paddle.jit.load(str(tmp_path / "gate"))(x).numpy(), expected)
