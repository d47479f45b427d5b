"""A decoder layer over its cache as one operator, where it is compiled; its definition is the layer, `Block`."""

from typing import NamedTuple

import paddle

from ernie5.ops import backend
from ernie5.ops.attention import Mask

DTYPES = backend.Dtypes(backend.CPU_FLOATS)


class DecoderBlockWeights(NamedTuple):
    """What the layer reads, all of one dtype but for the router's float32; matrices as [in, out]."""

    attention: list[paddle.Tensor]  # input norm, q, k, v, o, norm behind attention
    mlp: list[paddle.Tensor]  # gate, up and down of the dense layer or the shared experts; empty: there are none
    experts: list[paddle.Tensor]  # router, expert_bias, gate_up, down; empty: a dense layer
    score: str
    scaling: float
    epsilon: float


def decoder_block(
    hidden_states: paddle.Tensor,
    weights: DecoderBlockWeights,
    angles: tuple[paddle.Tensor, paddle.Tensor],
    mask: Mask,
    expert_mask: paddle.Tensor,
    top_k: int,
    caches: tuple[paddle.Tensor, paddle.Tensor],
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """hidden_states [batch, seq, hidden] -> the same shape, and the load int64 [experts]; without gradients.

    angles: cos and sin as in `uni_rope`; expert_mask float32 [experts]; caches: keys and values [batch, capacity,
    kv_heads, head_dim], which the new tokens are written to, behind those that `mask` says there are.
    """
    listed = weights.attention + weights.mlp
    if weights.experts:
        router, expert_bias, gate_up, down = weights.experts
        listed = [*listed, router, expert_bias, expert_mask, gate_up, down]
    inputs = [hidden_states, *angles, mask.columns, mask.past, *caches, listed]
    attributes = bool(weights.mlp), bool(weights.experts), top_k, weights.score == "sigmoid", weights.scaling
    output, tokens_per_expert, *_ = backend.call("decoder_block", inputs, *attributes, weights.epsilon)
    return output, tokens_per_expert


def is_native(hidden_states: paddle.Tensor) -> bool:
    """Whether there is such an operator for these, and nobody who wants their gradients."""
    return not paddle.is_grad_enabled() and backend.takes("decoder_block", DTYPES, hidden_states)
