"""Decoder layers over pages of keys as one operator, where it is compiled; the definition of each is `Block`."""

from collections.abc import Sequence
from typing import NamedTuple

import paddle

from ernie5.ops import backend

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


class PagedRows(NamedTuple):
    """The sequences whose tokens stand one behind the other, and where their keys lie."""

    rows: paddle.Tensor  # int64 [rows, 3]: new tokens, keys kept before them, number of the first in its sequence
    tables: paddle.Tensor  # int32 [rows, pages]: numbers of its pages
    seen: (
        paddle.Tensor
    )  # int32 [pages, page_keys, 2]: a key is seen by tokens with numbers from the one to below the other


def paged_decoder_layers(
    hidden_states: paddle.Tensor,
    layers: Sequence[LayerWeights],
    angles: tuple[paddle.Tensor, paddle.Tensor],
    rows: PagedRows,
    expert_masks: Sequence[paddle.Tensor],
    top_k: int,
    keys: Sequence[paddle.Tensor],
    values: Sequence[paddle.Tensor],
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """hidden_states [1, tokens, hidden] -> the same shape, and the loads int64 [routing layers, experts].

    Without gradients. The layers share score, scaling, epsilon and the number of experts. angles: cos and sin float32
    [1, tokens, 1, head_dim / 2]; expert_masks float32 [experts], one a layer; keys and values of each layer [pages,
    page_keys, kv_heads, head_dim], into which those of the new tokens are written; page_keys is a multiple of 64.
    """
    weights, kinds = [], []
    for layer, expert_mask in zip(layers, expert_masks, strict=True):
        weights += layer.attention + layer.mlp
        if layer.experts:
            router, expert_bias, gate_up, down = layer.experts
            weights += [router, expert_bias, expert_mask, gate_up, down]
        kinds.append(HAS_MLP * bool(layer.mlp) + HAS_EXPERTS * bool(layer.experts))
    inputs = [hidden_states, *angles, *rows, list(keys), list(values), weights]
    settings = kinds, top_k, layers[0].score == "sigmoid", layers[0].scaling, layers[0].epsilon
    output, tokens_per_expert, *_ = backend.call("paged_decoder_layers", inputs, *settings)
    return output, tokens_per_expert


def is_native(hidden_states: paddle.Tensor) -> bool:
    """Whether there is such an operator for these, and nobody who wants their gradients."""
    return not paddle.is_grad_enabled() and backend.takes("paged_decoder_layers", DTYPES, hidden_states)
