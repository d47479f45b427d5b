"""The compiled turn of Uni-RoPE against its definition, NumPy in float64 and central differences."""

import numpy as np
import paddle
import pytest

from ernie5.ops import backend
from ernie5.ops.uni_rope import uni_rope
from tests.finite_differences import numeric_gradient
from tests.tolerances import tolerance

pytest.importorskip("ernie5_ops")
# batch, seq, heads, head_dim
SHAPES = [(1, 1, 1, 2), (2, 3, 4, 6), (2, 17, 3, 64), (1, 40, 8, 34), (0, 3, 2, 4), (2, 0, 2, 4)]


@pytest.fixture(autouse=True)
def compiled():
    with backend.using("native"):
        assert backend.is_native("uni_rope")
        yield


def make(batch, seq, heads, head_dim, seed=0, shared=False):
    """states, cos, sin"""
    rng = np.random.default_rng(seed)
    angles = rng.uniform(-9, 9, (1 if shared else batch, seq, 1, head_dim // 2))
    return (
        rng.normal(size=(batch, seq, heads, head_dim)),
        np.cos(angles).astype(np.float32),
        np.sin(angles).astype(np.float32),
    )


def formula(states, cos, sin):
    """The pairs as complex numbers."""
    half = states.shape[-1] // 2
    turned = (states[..., :half] + 1j * states[..., half:]) * (cos.astype(np.float64) + 1j * sin.astype(np.float64))
    return np.concatenate([turned.real, turned.imag], axis=-1)


def tensor(array, dtype="float32"):
    made = paddle.to_tensor(array).astype(dtype).detach()
    made.stop_gradient = False
    return made


def with_gradient(states, cos, sin, cotangent, dtype="float32"):
    x = tensor(states, dtype)
    turned = uni_rope(x, paddle.to_tensor(cos), paddle.to_tensor(sin))
    (grad,) = paddle.grad(turned, [x], tensor(cotangent, dtype))
    assert turned.dtype == grad.dtype == x.dtype and turned.shape == grad.shape == x.shape
    return turned.astype("float64").numpy(), grad.astype("float64").numpy()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_equals_the_formula(shape, dtype, shared):
    states, cos, sin = make(*shape, shared=shared)
    x = tensor(states, dtype)
    found = uni_rope(x, paddle.to_tensor(cos), paddle.to_tensor(sin))
    assert found.dtype == x.dtype and found.shape == x.shape
    expected = formula(x.astype("float64").numpy(), cos, sin)
    np.testing.assert_allclose(found.astype("float64").numpy(), expected, **tolerance(dtype))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_bit_is_the_definition_s(dtype, shared):
    arrays, cotangent = make(2, 17, 3, 64, shared=shared), make(2, 17, 3, 64, seed=1)[0]
    found = with_gradient(*arrays, cotangent, dtype)
    with backend.using("reference"):
        expected = with_gradient(*arrays, cotangent, dtype)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_gradient_is_that_of_central_differences():
    states, cos, sin = make(2, 3, 2, 6)
    cotangent = make(2, 3, 2, 6, seed=1)[0]
    _, grad = with_gradient(states, cos, sin, cotangent, "float64")
    expected = numeric_gradient(lambda value: (formula(value, cos, sin) * cotangent).sum(), states)
    np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-7)


def test_every_number_goes_to_its_place():
    """Quarter turns of numbers that name their place."""
    shape = (2, 5, 3, 8)
    states = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    quarter = np.zeros((2, 5, 1, 4), np.float32), np.ones((2, 5, 1, 4), np.float32)
    found, back = with_gradient(states, *quarter, states)
    np.testing.assert_array_equal(found, np.concatenate([-states[..., 4:], states[..., :4]], -1))
    np.testing.assert_array_equal(back, np.concatenate([states[..., 4:], -states[..., :4]], -1))


def test_input_that_is_not_contiguous_is_read_in_its_order():
    states, cos, sin = make(2, 5, 3, 8)
    turned = tensor(states.transpose([0, 2, 1, 3]).copy()).transpose([0, 2, 1, 3])
    angles = paddle.to_tensor(cos), paddle.to_tensor(sin)
    np.testing.assert_array_equal(uni_rope(turned, *angles).numpy(), uni_rope(tensor(states), *angles).numpy())


@pytest.mark.parametrize("seed", range(10))
def test_any_shape(seed):
    rng = np.random.default_rng(seed)
    shape = [int(rng.integers(1, top)) for top in (4, 60, 9)] + [2 * int(rng.integers(1, 70))]
    arrays, cotangent = make(*shape, seed, bool(seed % 2)), make(*shape, seed + 1)[0]
    found, grad = with_gradient(*arrays, cotangent)
    np.testing.assert_allclose(found, formula(*arrays), **tolerance("float32"))
    np.testing.assert_allclose(grad, formula(cotangent, arrays[1], -arrays[2]), **tolerance("float32"))


@pytest.mark.parametrize(
    ("states", "cos", "sin", "message"),
    [
        ([2, 3, 4], [2, 3, 1, 2], [2, 3, 1, 2], r"states has shape \[2, 3, 4\], expected \[-1, -1, -1, -1\]"),
        (
            [2, 3, 4, 5],
            [2, 3, 1, 2],
            [2, 3, 1, 2],
            r"states has shape \[2, 3, 4, 5\], but its last dim .* must be even",
        ),
        ([2, 3, 4, 6], [2, 3, 1, 2], [2, 3, 1, 3], r"cos has shape \[2, 3, 1, 2\], expected \[2, 3, 1, 3\]"),
        ([2, 3, 4, 6], [2, 3, 1, 3], [1, 3, 1, 3], r"sin has shape \[1, 3, 1, 3\], expected \[2, 3, 1, 3\]"),
    ],
)
def test_a_wrong_shape_is_told_in_one_sentence(states, cos, sin, message):
    with pytest.raises(OSError, match=message):
        backend.call("uni_rope", [paddle.ones(states), paddle.ones(cos), paddle.ones(sin)])


@pytest.mark.parametrize(
    ("dtypes", "message"),
    [
        (("float32", "float64"), "cos has dtype float64, expected float32"),
        (("int32", "float32"), "use float32, bfloat16 or float64"),
    ],
)
def test_a_wrong_dtype_is_told_in_one_sentence(dtypes, message):
    angles = paddle.ones([2, 3, 1, 3], dtypes[1])
    with pytest.raises(OSError, match=message):
        backend.call("uni_rope", [paddle.ones([2, 3, 4, 6], dtypes[0]), angles, angles])


class Turn(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([8])

    def forward(self, states, cos, sin):
        return uni_rope(states * self.weight, cos, sin)


@pytest.mark.filterwarnings("ignore:Tensor do not have 'place':UserWarning")  # Paddle's own, of its full_like
def test_it_works_in_a_traced_program_with_its_gradients():
    inputs, layer, grads = [tensor(array) for array in make(2, 5, 3, 8)], Turn(), []
    for forward in (layer, paddle.jit.to_static(layer, full_graph=True)):
        (forward(*inputs) * inputs[0]).sum().backward()
        grads.append(layer.weight.grad.numpy())
        layer.clear_gradients()
    np.testing.assert_array_equal(*grads)


def test_it_works_in_a_saved_program_of_any_length(tmp_path):
    layer, inputs = Turn(), [paddle.to_tensor(array.astype(np.float32)) for array in make(2, 5, 3, 8)]
    expected = layer(*inputs).numpy()
    shapes = {"states": [None, None, 3, 8], "cos": [None, None, 1, 4], "sin": [None, None, 1, 4]}
    spec = [paddle.static.InputSpec(shape, "float32", name) for name, shape in shapes.items()]
    paddle.jit.save(layer, str(tmp_path / "turn"), input_spec=spec)
    np.testing.assert_array_equal(paddle.jit.load(str(tmp_path / "turn"))(*inputs).numpy(), expected)
