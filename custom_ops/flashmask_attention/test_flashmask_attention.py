"""The compiled attention against a softmax in float64 whose mask is spelled out pair by pair, and central differences.

tests/ops/test_attention.py holds it and the definition to the same cases; here are sizes beyond a block, and the
operator as such.
"""

import os
import subprocess
import sys

import numpy as np
import paddle
import pytest

from ernie5.ops import backend
from ernie5.ops.attention import Mask, flashmask_attention
from tests.finite_differences import numeric_gradient

pytest.importorskip("ernie5_ops")
SUMS = {"rtol": 1e-4, "atol": 2e-5}  # float32 sums of some hundred terms


@pytest.fixture(autouse=True)
def compiled():
    with backend.using("native"):
        assert backend.is_native("flashmask_attention")
        yield


def states(batch, queries, keys, heads, kv_heads, head_dim, seed=0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = [queries, heads], [keys, kv_heads], [keys, kv_heads]
    return [rng.normal(size=[batch, *shape, head_dim]) for shape in shapes]


def softmax(query, key, visible) -> np.ndarray:
    """[batch, heads, queries, keys], zeros for a query that sees nothing; as many key as query heads."""
    scores = np.einsum("bihd,bjhd->bhij", query, key) / np.sqrt(query.shape[-1])
    scores = np.where(visible[:, None], scores, -np.inf)
    top = scores.max(-1, keepdims=True, initial=-1e300)
    weights = np.exp(np.where(np.isinf(scores), -np.inf, scores - top))
    total = weights.sum(-1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def softmax_attention(query, key, value, visible) -> np.ndarray:
    """All pairs at once in float64; visible bool [batch or 1, queries, keys]."""
    batch, queries, heads, head_dim = query.shape
    key, value = (np.repeat(one, heads // key.shape[2], axis=2) for one in (key, value))
    return np.einsum("bhij,bjhd->bihd", softmax(query, key, visible), value).reshape([batch, queries, heads * head_dim])


def tensors(arrays, dtype="float32") -> list[paddle.Tensor]:
    found = [paddle.to_tensor(array).astype(dtype).detach() for array in arrays]
    for one in found:
        one.stop_gradient = False
    return found


def with_gradients(given, mask: Mask) -> list[np.ndarray]:
    out = flashmask_attention(*given, mask)
    cotangent = paddle.to_tensor(np.random.default_rng(9).normal(size=out.shape)).astype(out.dtype)
    return [one.astype("float64").numpy() for one in (out, *paddle.grad([out], given, [cotangent]))]


def expected_gradients(arrays, visible) -> list[np.ndarray]:
    """Written out by hand: d softmax = weights * (d - rowsum(weights * d))."""
    query, key, value = arrays
    batch, queries, heads, head_dim = query.shape
    group = heads // key.shape[2]
    wide_key, wide_value = (np.repeat(one, group, axis=2) for one in (key, value))
    out = softmax_attention(*arrays, visible)
    grad = np.random.default_rng(9).normal(size=out.shape).reshape([batch, queries, heads, head_dim])
    weights = softmax(query, wide_key, visible)
    grad_weights = np.einsum("bihd,bjhd->bhij", grad, wide_value)
    grad_scores = weights * (grad_weights - (weights * grad_weights).sum(-1, keepdims=True)) / np.sqrt(head_dim)
    grads = [
        np.einsum("bhij,bjhd->bihd", grad_scores, wide_key),
        np.einsum("bhij,bihd->bjhd", grad_scores, query),
        np.einsum("bhij,bihd->bjhd", weights, grad),
    ]
    shape = [batch, key.shape[1], key.shape[2], group, head_dim]
    return [out, grads[0], *(one.reshape(shape).sum(3) for one in grads[1:])]


def documents(*lengths: int) -> np.ndarray:
    ends = np.repeat(np.cumsum(lengths), lengths)
    return np.stack([ends, np.arange(ends.size)], -1)[None].astype(np.int32)


def random_columns(rng, batch: int, queries: int, keys: int, number: int) -> np.ndarray:
    """Any numbers at all, ends before starts and beyond the queries among them."""
    return rng.integers(-2, queries + 3, [batch, keys, number]).astype(np.int32)


BLOCKS = {  # queries, keys, heads, key-value heads, head_dim
    "one of each": (1, 1, 1, 1, 1),
    "a block of keys": (64, 64, 4, 2, 16),
    "one key more": (65, 65, 4, 2, 16),
    "many blocks": (300, 300, 4, 1, 32),
    "an odd head": (70, 130, 3, 3, 13),
    "a wide head": (40, 200, 2, 1, 128),
    "more rows than a walk": (260, 70, 2, 2, 8),
    "few queries": (3, 700, 4, 2, 24),
    "one query, many keys": (1, 1500, 8, 2, 40),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("name", BLOCKS)
def test_any_size_equals_the_softmax_with_gradients(name, causal, dtype):
    queries, keys, *heads = BLOCKS[name]
    arrays, mask = states(2, queries, keys, *heads), Mask(queries, keys, causal=causal)
    found = with_gradients(tensors(arrays, dtype), mask)
    expected = expected_gradients(arrays, mask.visible(0, queries))
    close = SUMS if dtype == "float32" else {"rtol": 1e-9, "atol": 1e-10}
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **close)


@pytest.mark.parametrize("lengths", [(200,), (64, 64, 72), (1, 63, 100, 36), (50,) * 4], ids=str)
def test_documents_equal_the_softmax_with_gradients(lengths):
    arrays, mask = states(1, 200, 200, 4, 2, 16), Mask(200, 200, documents(*lengths))
    found = with_gradients(tensors(arrays), mask)
    for one, other in zip(found, expected_gradients(arrays, mask.visible(0, 200)), strict=True):
        np.testing.assert_allclose(one, other, **SUMS)


@pytest.mark.parametrize("seed", range(25))
def test_any_mask_and_any_shape_equal_the_softmax_with_gradients(seed):
    rng = np.random.default_rng(seed)
    batch, kv_heads, group, head_dim = rng.integers(1, [4, 4, 4, 40]).tolist()
    queries, keys = rng.integers(1, 180, 2).tolist()
    number, causal = [(1, False), (1, True), (2, False), (2, True), (4, False)][seed % 5]
    columns = random_columns(rng, int(rng.choice([1, batch])), queries, keys, number)
    arrays, mask = states(batch, queries, keys, kv_heads * group, kv_heads, head_dim, seed), None
    mask = Mask(queries, keys, columns, causal)
    found = with_gradients(tensors(arrays, "float64"), mask)
    for one, other in zip(found, expected_gradients(arrays, mask.visible(0, queries)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("queries", [2, 20], ids=["few", "in blocks"])
def test_gradients_equal_central_differences(queries):
    arrays, mask = states(1, queries, 5, 2, 1, 3), Mask(queries, 5, causal=True)
    grads = with_gradients(tensors(arrays, "float64"), mask)[1:]
    cotangent = np.random.default_rng(9).normal(size=[1, queries, 6])
    for place, grad in enumerate(grads):

        def objective(value, place=place):
            changed = [*arrays[:place], value, *arrays[place + 1 :]]
            return float((softmax_attention(*changed, mask.visible(0, queries)) * cotangent).sum())

        np.testing.assert_allclose(grad, numeric_gradient(objective, arrays[place]), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("queries", [1, 90])
def test_bfloat16_equals_the_softmax_of_the_rounded_numbers(queries):
    mask = Mask(queries, 90, causal=True)
    given = tensors(states(2, queries, 90, 4, 2, 16), "bfloat16")
    rounded = [one.astype("float64").numpy() for one in given]
    for one, other in zip(
        with_gradients(given, mask), expected_gradients(rounded, mask.visible(0, queries)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=2e-2, atol=2e-2 * abs(other).max())


@pytest.mark.parametrize("queries", [2, 60], ids=["few", "in blocks"])
def test_a_query_that_sees_nothing_gives_zero_and_an_infinite_logarithm(queries):
    columns = np.zeros([1, 80, 4], np.int32)
    columns[..., 0], columns[..., 1] = 1, 2  # hidden from the second query
    given = tensors(states(1, queries, 80, 4, 2, 16))
    out, lse = backend.call("flashmask_attention", [*given, paddle.to_tensor(columns)], False)
    assert not out.numpy()[:, 1].any() and out.numpy()[:, 0].any()
    assert np.isneginf(lse.numpy()[..., 1]).all() and np.isfinite(np.delete(lse.numpy(), 1, -1)).all()
    out[:, 1].sum().backward()
    assert not any(one.grad.numpy().any() for one in given)


def test_scores_far_from_zero_stay_finite():
    arrays = states(1, 30, 100, 2, 1, 16)
    arrays[0] *= 300
    mask = Mask(30, 100, causal=True)
    found = with_gradients(tensors(arrays), mask)
    for one, other in zip(found, expected_gradients(arrays, mask.visible(0, 30)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-2 * abs(other).max())


@pytest.mark.parametrize(
    "shape", [(0, 3, 5), (2, 0, 5), (2, 3, 0), (2, 40, 0)], ids=["no row", "no query", "no key", "no key for many"]
)
def test_nothing_gives_nothing(shape):
    batch, queries, keys = shape
    found = with_gradients(tensors(states(batch, queries, keys, 4, 2, 8)), Mask(queries, keys))
    assert found[0].shape == (batch, queries, 32) and not any(one.any() for one in found)


def test_every_query_reads_the_keys_of_its_own_head_and_row():
    """A value says where it stands, and each query sees one key: a misrouted read would show."""
    batch, keys, heads, kv_heads = 2, 90, 6, 3
    _, key, value = states(batch, keys, keys, heads, kv_heads, 4)
    value[:] = np.arange(batch * keys * kv_heads).reshape([batch, keys, kv_heads, 1])
    columns = np.stack([np.arange(keys) + 1, np.arange(keys)], -1)[None].astype(np.int32)
    query = np.zeros([batch, keys, heads, 4])
    out = flashmask_attention(*tensors([query, key, value]), Mask(keys, keys, columns)).numpy()
    np.testing.assert_array_equal(out.reshape([batch, keys, heads, 4]), np.repeat(value, heads // kv_heads, axis=2))


def test_what_is_frozen_has_no_gradient():
    given = tensors(states(1, 20, 20, 2, 2, 8))
    given[1].stop_gradient = True
    flashmask_attention(*given, Mask(20, 20)).sum().backward()
    assert given[0].grad is not None and given[1].grad is None and given[2].grad is not None


def test_input_that_is_not_contiguous_is_read_in_its_order():
    given, mask = tensors(states(1, 20, 20, 2, 2, 8)), Mask(20, 20, causal=True)
    turned = given[0].transpose([0, 2, 1, 3]).clone().transpose([0, 2, 1, 3])
    with paddle.no_grad():
        expected = flashmask_attention(*given, mask).numpy()
        np.testing.assert_array_equal(flashmask_attention(turned, *given[1:], mask).numpy(), expected)


WRONG = {
    "a flat query": ({0: [3, 4]}, r"query has shape \[3, 4\]"),
    "another head_dim": (
        {1: [1, 5, 2, 7], 2: [1, 5, 2, 7]},
        r"key has shape \[1, 5, 2, 7\], expected \[1, -1, -1, 8\]",
    ),
    "other values": ({2: [1, 6, 2, 8]}, r"value has shape \[1, 6, 2, 8\], expected \[1, 5, 2, 8\]"),
    "heads that do not divide": ({1: [1, 5, 3, 8], 2: [1, 5, 3, 8]}, "4 heads of queries are no multiple of 3"),
    "a mask of other keys": ({3: [1, 4, 2]}, r"mask has shape \[1, 4, 2\], expected \[-1, 5, -1\]"),
    "a mask of other rows": ({3: [2, 5, 2]}, "mask has 2 rows, expected 1 or 1"),
    "three columns": ({3: [1, 5, 3]}, "mask has 3 columns"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_shape_is_told_in_one_sentence(name):
    changes, message = WRONG[name]
    shapes = {0: [1, 6, 4, 8], 1: [1, 5, 2, 8], 2: [1, 5, 2, 8], 3: [1, 5, 2]} | changes
    given = [paddle.zeros(shape, "int32" if place == 3 else "float32") for place, shape in shapes.items()]
    with pytest.raises(OSError, match=message):
        backend.call("flashmask_attention", given, False)


def test_a_wrong_dtype_is_told_in_one_sentence():
    given = [paddle.zeros([1, 5, 2, 8])] * 3
    with pytest.raises(OSError, match="mask has dtype int64, expected int32"):
        backend.call("flashmask_attention", [*given, paddle.zeros([1, 5, 2], "int64")], False)
    with pytest.raises(OSError, match="value has dtype float64, expected float32"):
        wide = given[2].astype("float64")
        backend.call("flashmask_attention", [*given[:2], wide, paddle.zeros([1, 5, 2], "int32")], False)


SCRIPT = """
import sys, numpy as np, paddle
from ernie5.ops import backend
from ernie5.ops.attention import Mask, flashmask_attention
backend.choose("native")
rng = np.random.default_rng(0)
parts = []
for batch, kv_heads in ((1, 1), (2, 2)):  # fewer heads than threads, and more
    shapes = [batch, 300, 4, 16], [batch, 300, kv_heads, 16], [batch, 300, kv_heads, 16]
    given = [paddle.to_tensor(rng.normal(size=shape).astype("float32"), stop_gradient=False) for shape in shapes]
    once, again = ([flashmask_attention(*given, Mask(300, 300, causal=True))] for _ in range(2))
    for made in (once, again):
        made += paddle.grad([made[0].sum()], given)
    assert all((one == other).all() for one, other in zip(once, again))
    few = flashmask_attention(given[0][:, :1], *given[1:], Mask(1, 300))
    parts += [one.numpy() for one in (*once, few)]
np.savez(sys.argv[1], *parts)
"""


def test_two_threads_agree_with_one_and_repeat_their_bits(tmp_path):
    for threads in ("1", "2"):
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / f"{threads}.npz")], env=environment, check=True)
    one, two = (np.load(tmp_path / f"{threads}.npz") for threads in ("1", "2"))
    for name in one.files:
        np.testing.assert_allclose(one[name], two[name], **SUMS)


class Attention(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.scale = self.create_parameter([1], default_initializer=paddle.nn.initializer.Constant(2.0))

    def forward(self, query, key, value, columns):
        return backend.call("flashmask_attention", [query * self.scale, key, value, columns], False)[0]


@pytest.mark.filterwarnings("ignore:Tensor do not have 'place':UserWarning")
def test_traced_and_saved_programs_give_the_same(tmp_path):
    arrays, columns = states(2, 70, 70, 4, 2, 8), paddle.to_tensor(documents(30, 40))
    specs = [paddle.static.InputSpec([None, None, heads, 8], "float32") for heads in (4, 2, 2)]
    specs.append(paddle.static.InputSpec([None, None, 2], "int32"))
    traced = paddle.jit.to_static(Attention(), input_spec=specs, full_graph=True)
    results = []
    for layer in (Attention(), traced):
        given = tensors(arrays)
        out = layer(*given, columns)
        results.append([one.numpy() for one in (out, *paddle.grad([out.sum()], given))])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
    paddle.jit.save(traced, str(tmp_path / "attention"))
    loaded = paddle.jit.load(str(tmp_path / "attention"))
    with paddle.no_grad():
        np.testing.assert_array_equal(loaded(*tensors(arrays), columns).numpy(), results[0][0])


def test_the_definition_says_the_same():
    arrays, mask = states(2, 90, 90, 4, 2, 16), Mask(90, 90, documents(20, 50, 20))
    results = []
    for mode in ("native", "reference"):
        with backend.using(mode):
            results.append(with_gradients(tensors(arrays), mask))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, **SUMS)
