"""Decoder layers over their caches as one operator, where it is compiled; the definition of each is `Block`."""

from collections.abc import Sequence
from typing import NamedTuple

import paddle

from ernie5.ops import backend
from ernie5.ops.attention import Mask

DTYPES = backend.Dtypes(backend.CPU_FLOATS)
HAS_MLP, HAS_EXPERTS = 1, 2  # bits of a layer's kind


class LayerWeights(NamedTuple):
    """What a layer reads, all of one dtype but for the router's float32; matrices as [in, out]."""

    attention: list[paddle.Tensor]  # input norm, q, k, v, o, norm behind attention
    mlp: list[paddle.Tensor]  # gate, up and down of the dense layer or the shared experts; empty: there are none
    experts: list[paddle.Tensor]  # router, expert_bias, gate_up, down; empty: a dense layer
    score: str
    scaling: float
    epsilon: float


def decoder_layers(
    hidden_states: paddle.Tensor,
    layers: Sequence[LayerWeights],
    angles: tuple[paddle.Tensor, paddle.Tensor],
    mask: Mask,
    expert_masks: Sequence[paddle.Tensor],
    top_k: int,
    caches: Sequence[tuple[paddle.Tensor, paddle.Tensor]],
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """hidden_states [batch, seq, hidden] -> the same shape, and the loads int64 [routing layers, experts].

    Without gradients. The layers share score, scaling, epsilon and the number of experts. angles: cos and sin as in
    `uni_rope`; expert_masks float32 [experts], one a layer; caches: of each layer keys and values [batch, capacity,
    kv_heads, head_dim], which the new tokens are written to, behind those that `mask` says there are.
    """
    weights, kinds = [], []
    for layer, expert_mask in zip(layers, expert_masks, strict=True):
        weights += layer.attention + layer.mlp
        if layer.experts:
            router, expert_bias, gate_up, down = layer.experts
            weights += [router, expert_bias, expert_mask, gate_up, down]
        kinds.append(HAS_MLP * bool(layer.mlp) + HAS_EXPERTS * bool(layer.experts))
    keys, values = zip(*caches, strict=True)
    inputs = [hidden_states, *angles, mask.columns, mask.past, list(keys), list(values), weights]
    settings = kinds, top_k, layers[0].score == "sigmoid", layers[0].scaling, layers[0].epsilon
    output, tokens_per_expert, *_ = backend.call("decoder_layers", inputs, *settings)
    return output, tokens_per_expert


def is_native(hidden_states: paddle.Tensor) -> bool:
    """Whether there is such an operator for these, and nobody who wants their gradients."""
    return not paddle.is_grad_enabled() and backend.takes("decoder_layers", DTYPES, hidden_states)
