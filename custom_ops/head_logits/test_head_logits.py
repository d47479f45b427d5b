"""The compiled logits of few rows against a product in float64."""

import numpy as np
import paddle
import pytest

from ernie5.ops import backend
from ernie5.ops.head_logits import FEW_ROWS, head_logits
from tests.tolerances import tolerance

pytest.importorskip("ernie5_ops")


@pytest.fixture(autouse=True)
def compiled():
    with backend.using("native"), paddle.no_grad():
        assert backend.is_native("head_logits")
        yield


def given(rows: int, hidden: int, vocab: int, hidden_first: bool, dtype: str = "float32"):
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=[rows, hidden]), rng.normal(size=[hidden, vocab] if hidden_first else [vocab, hidden])
    tensors = [paddle.to_tensor(array / hidden**0.25).astype(dtype) for array in (x, weight)]
    wide = [tensor.astype("float64").numpy() for tensor in tensors]
    return tensors, wide[0] @ (wide[1] if hidden_first else wide[1].T)


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    made, call = [], backend.call
    monkeypatch.setattr(backend, "call", lambda name, *rest: made.append(name) or call(name, *rest))
    return made


@pytest.mark.parametrize("hidden_first", [False, True], ids=["embedding", "linear"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 15, 16])
@pytest.mark.parametrize("hidden, vocab", [(256, 300), (5, 1), (1, 17), (70, 513), (16, 16)])
def test_logits_are_the_product(rows, hidden, vocab, hidden_first, dtype, calls):
    tensors, expected = given(rows, hidden, vocab, hidden_first, dtype)
    logits = head_logits(*tensors, hidden_first)
    assert calls == ["head_logits"] and logits.dtype == tensors[0].dtype
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == "float32" else tolerance(dtype)
    np.testing.assert_allclose(logits.astype("float64").numpy(), expected, **close)


def test_leading_dims_stay(calls):
    (x, weight), expected = given(6, 32, 40, False)
    logits = head_logits(x.reshape([2, 3, 32]), weight)
    np.testing.assert_allclose(logits.numpy(), expected.reshape([2, 3, 40]), rtol=1e-5, atol=1e-5)
    assert calls


@pytest.mark.parametrize("rows", [0, FEW_ROWS + 1])
def test_no_rows_and_many_are_paddles(rows, calls):
    (x, weight), expected = given(rows, 32, 40, False)
    np.testing.assert_allclose(head_logits(x, weight).numpy(), expected, rtol=1e-5, atol=1e-5)
    assert not calls


def test_gradients_are_paddles(calls):
    (x, weight), _ = given(2, 32, 40, False)
    x.stop_gradient = False
    with paddle.enable_grad():
        head_logits(x, weight).sum().backward()
    assert not calls
    np.testing.assert_allclose(x.grad.numpy(), np.tile(weight.numpy().sum(0), [2, 1]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hidden_first", [False, True])
def test_a_wrong_weight_ends_in_one_sentence(hidden_first):
    with pytest.raises(OSError, match=r"head_logits: weight has shape \[4, 5\]"):
        backend.call("head_logits", [paddle.zeros([1, 3]), paddle.zeros([4, 5])], hidden_first)
    with pytest.raises(OSError, match="head_logits: weight has dtype"):
        backend.call("head_logits", [paddle.zeros([1, 3]), paddle.zeros([3, 3], "float64")], hidden_first)
