"""Products of weights with factors rounded to bfloat16, against float64 products of the rounded numbers."""

import os
import subprocess
import sys

import numpy as np
import paddle
import pytest

from ernie5.layers.linear import linear as linear_layer
from ernie5.ops import backend
from ernie5.ops.attention import Mask, flashmask_attention
from ernie5.ops.cross_entropy import linear_cross_entropy
from ernie5.ops.linear import linear
from ernie5.ops.moe import moe_ffn

ernie5_ops = pytest.importorskip("ernie5_ops")
needs_bf16 = pytest.mark.skipif(
    "avx512_bf16" not in ernie5_ops.build()["cpu_flags"] and "avx512_bf16" not in backend.processor_flags(),
    reason="needs a processor with AVX512-BF16",
)
# rows, in, out: below and beyond a tile (14 x 32), a pair left over, and more than is summed at once (512)
SIZES = [(1, 1, 1), (3, 7, 5), (14, 64, 32), (15, 65, 33), (40, 1100, 70), (600, 31, 100), (200, 256, 256)]
ERROR = 2.0**-8  # of a product of two factors rounded to 8 bits of mantissa, at most


@pytest.fixture
def in_bfloat16():
    with backend.using("native", bf16_products=True):
        yield


def rounded(array: np.ndarray) -> np.ndarray:
    """To the nearest bfloat16, by Paddle's own conversion."""
    return paddle.to_tensor(array.astype(np.float32)).astype("bfloat16").astype("float64").numpy()


def given(rows: int, inner: int, out: int, dtype: str = "float32") -> list[paddle.Tensor]:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape) for shape in ([rows, inner], [inner, out], [rows, out])]
    return [paddle.to_tensor(array.astype(dtype), stop_gradient=place == 2) for place, array in enumerate(arrays)]


def results(x, weight, cotangent) -> list[np.ndarray]:
    y = linear(x, weight, None)
    return [one.numpy() for one in (y, *paddle.grad([y], [x, weight], [cotangent]))]


@needs_bf16
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_factors_are_rounded_and_sums_are_not(size, in_bfloat16):
    x, weight, cotangent = given(*size)
    wide = [rounded(one.numpy()) for one in (x, weight, cotangent)]
    expected = [wide[0] @ wide[1], wide[2] @ wide[1].T, wide[0].T @ wide[2]]
    for one, other in zip(results(x, weight, cotangent), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.sqrt(max(size)))


@needs_bf16
def test_the_error_is_that_of_rounding(in_bfloat16):
    x, weight, cotangent = given(200, 256, 256)
    exact = x.numpy().astype(np.float64) @ weight.numpy()
    error = np.sqrt(np.square(results(x, weight, cotangent)[0] - exact).mean() / np.square(exact).mean())
    assert ERROR / 10 < error < ERROR


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_operator_is_the_plain_product_where_nobody_asks_for_less(size, dtype):
    x, weight, cotangent = given(*size, dtype)
    with backend.using("native"):
        y = backend.call("linear", [x, weight])[0]
        found = [one.numpy() for one in (y, *paddle.grad([y], [x, weight], [cotangent]))]
    expected = [x.numpy() @ weight.numpy(), cotangent.numpy() @ weight.numpy().T, x.numpy().T @ cotangent.numpy()]
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == "float32" else {"rtol": 1e-9, "atol": 1e-9}
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **close)


@needs_bf16
def test_a_layer_keeps_its_shape_and_adds_its_bias(in_bfloat16):
    layer = linear_layer(16, 8, 0.5, bias=True)
    layer.bias.set_value(paddle.arange(8, dtype="float32"))
    states = paddle.randn([2, 3, 16])
    expected = rounded(states.numpy()) @ rounded(layer.weight.numpy()) + np.arange(8)
    np.testing.assert_allclose(layer(states).numpy(), expected, rtol=1e-5, atol=1e-5)


@needs_bf16
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_dtypes_are_left_alone(dtype, in_bfloat16):
    x, weight, _ = (one.astype(dtype) for one in given(4, 8, 3))
    if dtype == "bfloat16":  # Paddle's, which has none on the CPU
        with pytest.raises(RuntimeError):
            linear(x, weight, None)
    else:
        np.testing.assert_allclose(linear(x, weight, None).numpy(), x.numpy() @ weight.numpy(), rtol=1e-12)


def relative(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.square(one - other).mean() / np.square(other).mean()))


def expert_results(tokens: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    ids = paddle.to_tensor(rng.integers(0, 3, [tokens, 2]))
    arrays = [rng.normal(size=[tokens, 64]), rng.normal(size=[tokens, 2])]
    arrays += [rng.normal(size=[3, 64, 96]) / 8, rng.normal(size=[3, 48, 64]) / 7]
    x, weights, gate_up, down = (paddle.to_tensor(one.astype("float32"), stop_gradient=False) for one in arrays)
    out = moe_ffn(x, ids, weights, gate_up, down)
    cotangent = paddle.to_tensor(rng.normal(size=out.shape).astype("float32"))
    return [one.numpy() for one in (out, *paddle.grad([out], [x, weights, gate_up, down], [cotangent]))]


def loss_results(hidden_first: bool) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    x, weight = rng.normal(size=[90, 64]), rng.normal(size=[64, 300] if hidden_first else [300, 64]) / 4
    x, weight = (paddle.to_tensor(one.astype("float32"), stop_gradient=False) for one in (x, weight))
    labels = paddle.to_tensor(rng.integers(0, 300, [90]))
    loss = linear_cross_entropy(x, weight, labels, paddle.ones([90]), -100, hidden_first)
    return [one.numpy() for one in (loss, *paddle.grad([loss], [x, weight]))]


def attention_results() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = [2, 90, 4, 32], [2, 90, 2, 32], [2, 90, 2, 32]
    given = [paddle.to_tensor(rng.normal(size=shape).astype("float32"), stop_gradient=False) for shape in shapes]
    out = flashmask_attention(*given, Mask(90, 90, causal=True))
    cotangent = paddle.to_tensor(rng.normal(size=out.shape).astype("float32"))
    return [one.numpy() for one in (out, *paddle.grad([out], given, [cotangent]))]


WHOLE = {
    "attention": attention_results,
    "experts": lambda: expert_results(100),
    "loss of an embedding": lambda: loss_results(False),
    "loss of a linear layer": lambda: loss_results(True),
}


@needs_bf16
@pytest.mark.parametrize("name", WHOLE)
def test_operators_with_products_in_bfloat16_are_off_by_their_rounding(name):
    """Outputs and gradients, chains of up to three products: half a percent, and not exact."""
    with backend.using("native", bf16_products=True):
        found = WHOLE[name]()
    with backend.using("native"):
        exact = WHOLE[name]()
    errors = [relative(one, other) for one, other in zip(found, exact, strict=True)]
    assert max(errors) < 3 * ERROR and min(errors[1:]) > 0


def test_the_choice_ends_with_its_block():
    with backend.using("native"):
        before = WHOLE["experts"]()
        if "avx512_bf16" in backend.processor_flags():
            with backend.using("native", bf16_products=True):
                assert backend.bf16_products() and "bfloat16" in backend.described()
        assert not backend.bf16_products()
        np.testing.assert_array_equal(WHOLE["experts"]()[0], before[0])


SCRIPT = """
import sys, numpy as np, paddle
from ernie5.ops import backend
from ernie5.ops.linear import linear
backend.choose("native", bf16_products=True)
rng = np.random.default_rng(0)
arrays = rng.normal(size=[700, 600]), rng.normal(size=[600, 90])
x, weight = (paddle.to_tensor(array.astype("float32"), stop_gradient=False) for array in arrays)
y = linear(x, weight, None)
np.savez(sys.argv[1], y.numpy(), *(one.numpy() for one in paddle.grad([y.sum()], [x, weight])))
"""


@needs_bf16
def test_two_threads_have_the_bits_of_one(tmp_path):
    for threads in ("1", "2"):
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / f"{threads}.npz")], env=environment, check=True)
    one, two = (np.load(tmp_path / f"{threads}.npz") for threads in ("1", "2"))
    for name in one.files:
        np.testing.assert_array_equal(one[name], two[name])


def test_wrong_inputs_are_told_in_one_sentence():
    with backend.using("native"):
        with pytest.raises(OSError, match=r"linear: weight has shape \[4, 5\], expected \[3, -1\]"):
            backend.call("linear", [paddle.zeros([2, 3]), paddle.zeros([4, 5])])
        with pytest.raises(OSError, match="linear: weight has dtype float64, expected float32"):
            backend.call("linear", [paddle.zeros([2, 3]), paddle.zeros([3, 5], "float64")])


@pytest.mark.parametrize("rows, inner, out", [(0, 3, 4), (3, 0, 4), (3, 4, 0)])
def test_nothing_gives_zeros(rows, inner, out):
    flags = backend.processor_flags()
    for reduced in {False, "avx512_bf16" in flags}:
        with backend.using("native", bf16_products=reduced):
            x, weight, cotangent = given(rows, inner, out)
            y = backend.call("linear", [x, weight])[0]
            found = [y, *paddle.grad([y], [x, weight], [cotangent])]
            assert not any(one.numpy().any() for one in found)
            assert [one.shape for one in found] == [(rows, out), (rows, inner), (inner, out)]
