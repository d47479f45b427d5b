"""The attention layer against NumPy, and its cache."""

import numpy as np
import paddle
import pytest

from ernie5.config.schema import AttentionConfig
from ernie5.layers.attention import Attention
from ernie5.layers.layout import Layout, make_layout
from ernie5.layers.rope import rotation
from ernie5.ops.attention import Mask
from tests.paged import PagedRows
from tests.sequences import packed_batch
from tests.tolerances import tolerance

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, THETA = 12, 4, 2, 6, 100.0


def build(use_bias: bool = False) -> tuple[Attention, AttentionConfig]:
    config = AttentionConfig(
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM, rope_theta=THETA, use_bias=use_bias
    )
    layer = Attention(HIDDEN, config, initializer_range=0.5)
    for name, parameter in layer.named_parameters():
        if name.endswith("bias"):
            parameter.set_value(np.random.normal(size=parameter.shape).astype(np.float32))
    return layer, config


def expected_output(layer: Attention, hidden_states: np.ndarray, documents: np.ndarray, positions: np.ndarray):
    """Attention within each document, token by token, in float64; text positions."""

    def project(name: str) -> np.ndarray:
        linear = getattr(layer, f"{name}_proj")
        bias = 0 if linear.bias is None else linear.bias.numpy()
        return (hidden_states.astype(np.float64) @ linear.weight.numpy() + bias).reshape(
            [len(hidden_states), -1, HEAD_DIM]
        )

    def turn(states: np.ndarray) -> np.ndarray:
        half = HEAD_DIM // 2
        pairs = states[..., :half] + 1j * states[..., half:]
        pairs = pairs * np.exp(1j * positions[:, None, None] * THETA ** (-np.arange(half) / half))
        return np.concatenate([pairs.real, pairs.imag], -1)

    query, key, value = turn(project("q")), turn(project("k")), project("v")
    mixed = np.zeros_like(query)
    for i, h in np.ndindex(query.shape[:2]):
        seen = [j for j in range(i + 1) if documents[j] == documents[i]]
        kv_head = h // (HEADS // KV_HEADS)
        scores = key[seen, kv_head] @ query[i, h] / np.sqrt(HEAD_DIM)
        weights = np.exp(scores - scores.max())
        mixed[i, h] = weights @ value[seen, kv_head] / weights.sum()
    bias = 0 if layer.o_proj.bias is None else layer.o_proj.bias.numpy()
    return mixed.reshape([len(mixed), -1]) @ layer.o_proj.weight.numpy() + bias


@pytest.mark.parametrize("use_bias", [False, True])
def test_attention_equals_the_formula(use_bias):
    layer, config = build(use_bias)
    rows = packed_batch([[[1] * 5, [1] * 8], [[1] * 12, [1]]])
    states = np.random.normal(size=[2, 13, HIDDEN]).astype(np.float32)
    layout = make_layout(rows.mask_rows, paddle.to_tensor(rows.position_ids), config)
    output = layer(paddle.to_tensor(states), layout).numpy()
    for b in range(2):
        expected = expected_output(layer, states[b], rows.document_ids[b], rows.position_ids[b, :, 0])
        np.testing.assert_allclose(output[b], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunks", [[7], [1] * 7, [3, 1, 2, 1]], ids=str)
def test_pages_read_in_chunks_give_the_output_of_the_whole(chunks):
    """Two sequences, one behind the other in a ragged row."""
    layer, config = build()
    states = paddle.randn([2, 7, HIDDEN])
    positions = paddle.arange(7, dtype="float32").reshape([1, 7, 1]).expand([2, 7, 3])
    whole = layer(states, Layout(Mask(7, 7, causal=True), rotation(positions, config)))
    rows, start, outputs = PagedRows(2, 7, [0], (KV_HEADS, HEAD_DIM)), 0, []
    for size in chunks:
        ragged, placed = (part[:, start : start + size].reshape([1, 2 * size, -1]) for part in (states, positions))
        layout = Layout(rows.mask([size, size]), rotation(placed, config))
        outputs.append(layer(ragged, layout, rows.pages.layers[0]).reshape([2, size, -1]))
        start += size
    np.testing.assert_allclose(paddle.concat(outputs, 1).numpy(), whole.numpy(), **tolerance("float32"))
