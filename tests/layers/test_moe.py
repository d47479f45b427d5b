"""The mixture-of-experts layer against a loop over tokens."""

import numpy as np
import paddle
import pytest

from ernie5.config.schema import MoEConfig
from ernie5.layers.moe import MoE

HIDDEN, EXPERTS, TOP_K, FFN = 6, 5, 2, 4


def build(**changes) -> MoE:
    settings = dict(num_experts=EXPERTS, num_experts_per_tok=TOP_K, moe_intermediate_size=FFN)
    layer = MoE(HIDDEN, MoEConfig(**settings | changes), initializer_range=0.7)
    layer.gate.expert_bias.set_value(np.random.normal(0, 0.2, EXPERTS).astype(np.float32))
    return layer


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def naive(layer: MoE, hidden_states: np.ndarray, kept: list[int], top_k: int) -> np.ndarray:
    """One token, then one expert at a time, in float64."""
    w = {name: tensor.numpy().astype(np.float64) for name, tensor in layer.state_dict().items()}
    output = np.zeros(hidden_states.shape)
    for index in np.ndindex(hidden_states.shape[:2]):
        token = hidden_states[index].astype(np.float64)
        logits = token @ w["gate.weight"][:, kept]
        scores = np.exp(logits) / np.exp(logits).sum()
        order = np.argsort(-(scores + w["gate.expert_bias"][kept]))[:top_k]
        for place in order:
            gate, up = np.split(token @ w["experts.gate_up_proj"][kept[place]], 2)
            result = (silu(gate) * up) @ w["experts.down_proj"][kept[place]]
            output[index] += scores[place] / scores[order].sum() * result
        if layer.shared_experts is not None:
            gate, up = (token @ w[f"shared_experts.{kind}_proj.weight"] for kind in ("gate", "up"))
            output[index] += (silu(gate) * up) @ w["shared_experts.down_proj.weight"]
    return output


def run(layer: MoE, hidden_states: np.ndarray, kept=range(EXPERTS), top_k=TOP_K):
    mask = np.full(EXPERTS, -np.inf, np.float32)
    mask[list(kept)] = 0
    return layer(paddle.to_tensor(hidden_states), paddle.to_tensor(mask), top_k)


@pytest.fixture
def hidden_states() -> np.ndarray:
    return np.random.normal(size=[3, 7, HIDDEN]).astype(np.float32)


@pytest.mark.parametrize("num_shared_experts", [0, 1, 3])
@pytest.mark.parametrize("top_k", [1, 2, EXPERTS])
def test_layer_equals_a_loop_over_tokens(hidden_states, num_shared_experts, top_k):
    layer = build(num_shared_experts=num_shared_experts)
    expected = naive(layer, hidden_states, list(range(EXPERTS)), top_k)
    result = run(layer, hidden_states, top_k=top_k).hidden_states
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_masked_experts_are_as_if_they_were_not_there(hidden_states):
    layer, kept = build(), [0, 3, 4]
    output = run(layer, hidden_states, kept)
    np.testing.assert_allclose(
        output.hidden_states.numpy(), naive(layer, hidden_states, kept, TOP_K), rtol=1e-4, atol=1e-5
    )
    assert output.tokens_per_expert.numpy()[[1, 2]].tolist() == [0, 0]


@pytest.mark.parametrize("spread", [0.0, 1.0, 100.0], ids="bias_spread_{}".format)
def test_no_token_is_dropped_however_uneven_the_load(hidden_states, spread):
    layer = build()
    layer.gate.expert_bias.set_value(np.arange(EXPERTS, dtype=np.float32) * spread)
    output = run(layer, hidden_states)
    assert int(output.tokens_per_expert.sum()) == 3 * 7 * TOP_K
    expected = naive(layer, hidden_states, list(range(EXPERTS)), TOP_K)
    np.testing.assert_allclose(output.hidden_states.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_token_s_output_does_not_depend_on_its_neighbours(hidden_states):
    layer = build(num_shared_experts=1)
    together = run(layer, hidden_states).hidden_states.numpy()
    alone = run(layer, hidden_states[1:2, 4:5]).hidden_states.numpy()
    np.testing.assert_allclose(together[1:2, 4:5], alone, rtol=1e-5, atol=1e-6)


def test_every_weight_and_the_input_get_a_gradient(hidden_states):
    layer = build(num_shared_experts=1)
    states = paddle.to_tensor(hidden_states, stop_gradient=False)
    (layer(states, paddle.zeros([EXPERTS]), TOP_K).hidden_states ** 2).sum().backward()
    silent = [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent and states.grad.abs().sum() > 0
    assert layer.gate.expert_bias.grad is None
