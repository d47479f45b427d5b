"""The text head's loss against a log-softmax in NumPy."""

import dataclasses

import numpy as np
import paddle
import pytest

from ernie5.modality.text import TextModality
from ernie5.modality.unified import IGNORE_INDEX
from tests.finite_differences import numeric_gradient
from tests.tolerances import tolerance

BATCH, SEQ = 2, 5


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def text(request, tiny_model_config) -> TextModality:
    config = dataclasses.replace(
        tiny_model_config, vocab_size=11, hidden_size=6, initializer_range=0.8, tie_word_embeddings=request.param
    )
    return TextModality(config)


def head_of(text: TextModality) -> np.ndarray:
    """[hidden, vocab]."""
    weight = text.embed_tokens.weight.numpy().T if text.lm_head is None else text.lm_head.weight.numpy()
    return weight.astype(np.float64)


def expected_loss(hidden, labels, weight, head) -> float:
    total = 0.0
    for index in np.ndindex(labels.shape):
        if labels[index] != IGNORE_INDEX:
            logits = hidden[index] @ head
            shifted = logits - logits.max()
            total += weight[index] * (np.log(np.exp(shifted).sum()) - shifted[labels[index]])
    return total


@pytest.fixture
def inputs():
    hidden = np.random.normal(size=[BATCH, SEQ, 6]).astype(np.float32)
    labels = np.random.randint(0, 11, [BATCH, SEQ])
    labels[0, 2] = labels[1, 4] = IGNORE_INDEX
    return hidden, labels, np.random.uniform(0.1, 2, [BATCH, SEQ]).astype(np.float32)


def loss_of(text: TextModality, inputs) -> float:
    return float(text.loss(*map(paddle.to_tensor, inputs)))


def test_loss_is_the_weighted_sum_of_negative_log_likelihoods(text, inputs):
    assert loss_of(text, inputs) == pytest.approx(expected_loss(*inputs, head_of(text)), rel=1e-5)


def test_a_position_without_a_label_costs_nothing_whatever_its_weight(text, inputs):
    hidden, labels, weight = inputs
    heavier = np.where(labels == IGNORE_INDEX, 1e6, weight).astype(np.float32)
    assert loss_of(text, (hidden, labels, heavier)) == loss_of(text, inputs)


def test_a_batch_without_any_label_costs_zero(text, inputs):
    hidden, labels, weight = inputs
    assert loss_of(text, (hidden, np.full_like(labels, IGNORE_INDEX), weight)) == 0


def test_confident_logits_do_not_overflow(text, inputs):
    hidden, labels, weight = inputs
    assert np.isfinite(loss_of(text, (hidden * 1e4, labels, weight)))


def test_gradient_of_the_loss_equals_central_differences(text, inputs):
    hidden, labels, weight = inputs
    tensor = paddle.to_tensor(hidden, stop_gradient=False)
    text.loss(tensor, paddle.to_tensor(labels), paddle.to_tensor(weight)).backward()
    expected = numeric_gradient(lambda h: expected_loss(h, labels, weight, head_of(text)), hidden)
    np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_embedding_is_a_row_of_the_matrix(text):
    ids = np.array([[3, 0, 10]])
    np.testing.assert_array_equal(text.embed(paddle.to_tensor(ids)).numpy(), text.embed_tokens.weight.numpy()[ids])


def test_logits_are_products_with_the_head(text):
    hidden = np.random.normal(size=[4, 6]).astype(np.float32)
    np.testing.assert_allclose(
        text.logits(paddle.to_tensor(hidden)).numpy(), hidden @ head_of(text), **tolerance("float32")
    )
