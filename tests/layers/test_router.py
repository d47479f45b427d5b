"""The router against a NumPy computation, a token at a time."""

import numpy as np
import paddle
import pytest

from ernie5.config.schema import MoEConfig
from ernie5.layers.router import Router
from ernie5.ops.router import route
from tests.tolerances import tolerance

TOKENS, EXPERTS, TOP_K = 40, 8, 3
both_scores = pytest.mark.parametrize("score", ["softmax", "sigmoid"])


def scores_of(logits: np.ndarray, score: str) -> np.ndarray:
    if score == "sigmoid":
        return 1 / (1 + np.exp(-logits))
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def weight_table(ids: np.ndarray, weights: np.ndarray, num_experts: int = EXPERTS) -> np.ndarray:
    """[tokens, experts]: the weight of each chosen expert, 0 elsewhere; the order of choices does not matter."""
    table = np.zeros([len(ids), num_experts])
    np.put_along_axis(table, ids, weights, -1)
    return table


def expected_table(logits, bias, top_k, score, scaling=1.0) -> np.ndarray:
    scores = scores_of(logits.astype(np.float64), score)
    table = np.zeros(logits.shape)
    for row, token_scores in zip(table, scores, strict=True):
        chosen = sorted(range(logits.shape[1]), key=lambda e: -(token_scores[e] + bias[e]))[:top_k]
        row[chosen] = token_scores[chosen] / token_scores[chosen].sum() * scaling
    return table


def routed(logits, bias=None, mask=None, top_k=TOP_K, score="softmax", scaling=1.0) -> np.ndarray:
    zeros = np.zeros(logits.shape[1])
    tensors = (zeros if values is None else values for values in (bias, mask))
    tensors = [paddle.to_tensor(np.asarray(values, np.float32)) for values in (logits, *tensors)]
    routing = route(*tensors, top_k, score, scaling)
    return weight_table(routing.topk_ids.numpy(), routing.topk_weights.numpy(), logits.shape[1])


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.normal(0, 2, [TOKENS, EXPERTS]).astype(np.float32)


@pytest.fixture
def bias() -> np.ndarray:
    return np.random.normal(0, 0.3, EXPERTS).astype(np.float32)


@both_scores
@pytest.mark.parametrize("top_k", [1, 3, EXPERTS])
def test_routing_equals_the_formula(logits, bias, score, top_k):
    expected = expected_table(logits, bias, top_k, score, 2.5)
    np.testing.assert_allclose(routed(logits, bias, None, top_k, score, 2.5), expected, **tolerance("float32"))


@both_scores
def test_bias_moves_the_choice_and_not_the_weight(logits, score):
    pushed = routed(logits, bias=[9.0] + [0.0] * (EXPERTS - 1), score=score)
    assert (pushed[:, 0] > 0).all() and (routed(logits, score=score)[:, 0] == 0).any()
    scores = scores_of(logits.astype(np.float64), score)
    chosen = np.where(pushed > 0, scores, 0)
    np.testing.assert_allclose(pushed, chosen / chosen.sum(-1, keepdims=True), **tolerance("float32"))


@both_scores
def test_a_bias_equal_for_all_changes_nothing(logits, score):
    np.testing.assert_array_equal(routed(logits, bias=[0.5] * EXPERTS, score=score), routed(logits, score=score))


@both_scores
def test_masked_routing_equals_a_smaller_router(logits, bias, score):
    kept = np.array([0, 2, 3, 6])
    mask = np.full(EXPERTS, -np.inf)
    mask[kept] = 0
    table = routed(logits, bias, mask, score=score)
    assert (np.delete(table, kept, 1) == 0).all()
    smaller = routed(logits[:, kept], bias[kept], score=score)
    np.testing.assert_allclose(table[:, kept], smaller, **tolerance("float32"))


@both_scores
def test_weights_of_a_token_sum_to_the_scaling_factor(logits, bias, score):
    np.testing.assert_allclose(routed(logits, bias, score=score, scaling=2.5).sum(-1), 2.5, **tolerance("float32"))


def test_ties_choose_as_many_different_experts():
    table = routed(np.zeros([5, EXPERTS], np.float32))
    np.testing.assert_allclose(np.sort(table, -1)[:, -TOP_K:], 1 / TOP_K, **tolerance("float32"))
    assert ((table > 0).sum(-1) == TOP_K).all()


def test_ties_choose_the_same_experts_for_every_token():
    table = routed(np.zeros([200, EXPERTS], np.float32))
    assert (table == table[0]).all()


@both_scores
def test_scores_too_small_to_renormalise_stay_finite(score):
    logits = np.full([2, EXPERTS], -200.0, np.float32)
    logits[:, 0] = 200.0
    mask = [-np.inf] + [0.0] * (EXPERTS - 1)
    assert np.isfinite(routed(logits, mask=mask, score=score)).all()


def test_a_low_precision_input_is_scored_in_float32():
    config = MoEConfig(num_experts=EXPERTS, num_experts_per_tok=TOP_K, moe_intermediate_size=4)
    router = Router(16, config, initializer_range=1.0)
    states = paddle.randn([TOKENS, 16]).astype("float16")
    no_mask = paddle.zeros([EXPERTS])
    low, high = (router(x, no_mask, TOP_K) for x in (states, states.astype("float32")))
    assert low.topk_weights.dtype == paddle.float32
    np.testing.assert_array_equal(low.topk_weights.numpy(), high.topk_weights.numpy())
    np.testing.assert_array_equal(low.topk_ids.numpy(), high.topk_ids.numpy())


def test_router_weight_stays_float32_in_a_low_precision_model():
    config = MoEConfig(num_experts=EXPERTS, num_experts_per_tok=TOP_K, moe_intermediate_size=4)
    paddle.set_default_dtype("float16")
    router = Router(16, config, initializer_range=1.0)
    assert router.weight.dtype == router.expert_bias.dtype == paddle.float32


def test_gradient_reaches_the_router_through_the_weights_alone(logits, bias):
    tensor, bias_tensor = paddle.to_tensor(logits, stop_gradient=False), paddle.to_tensor(bias, stop_gradient=False)
    routing = route(tensor, bias_tensor, paddle.zeros([EXPERTS]), TOP_K, "softmax")
    assert routing.topk_ids.stop_gradient
    cotangent = np.random.normal(size=[TOKENS, TOP_K]).astype(np.float32)
    (routing.topk_weights * paddle.to_tensor(cotangent)).sum().backward()
    ids = routing.topk_ids.numpy()
    chosen = scores_of(
        np.take_along_axis(logits, ids, -1).astype(np.float64), "softmax"
    )  # renormalised: a softmax of k
    expected = np.zeros_like(logits)
    inner = (cotangent * chosen).sum(-1, keepdims=True)
    np.put_along_axis(expected, ids, chosen * (cotangent - inner), -1)
    np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-4, atol=2e-6)
    assert bias_tensor.grad is None
