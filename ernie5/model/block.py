"""One decoder layer: attention, then a dense or a mixture-of-experts feed-forward, each on a normed residual stream."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn

from ernie5.config.schema import ModelConfig
from ernie5.layers.attention import Attention
from ernie5.layers.layout import Layout
from ernie5.layers.linear import Linear
from ernie5.layers.mlp import GatedMLP
from ernie5.layers.moe import MoE
from ernie5.layers.norm import RMSNorm
from ernie5.layers.pages import LayerPages
from ernie5.ops.paged_decoder_layers import LayerWeights, is_native, paged_decoder_layers


class BlockOutput(NamedTuple):
    hidden_states: paddle.Tensor  # [batch, seq, hidden]
    tokens_per_expert: paddle.Tensor | None  # int64 [experts]; None in a dense layer


def is_moe_layer(config: ModelConfig, layer_id: int) -> bool:
    """Whether this layer routes its tokens; the multi-token prediction block counts on from the last layer."""
    return config.moe.num_experts > 0 and layer_id >= config.moe.num_dense_layers


class Block(nn.Layer):
    """h += attention(norm(h)); h += mlp(norm(h))."""

    def __init__(self, config: ModelConfig, layer_id: int):
        super().__init__()
        hidden, std = config.hidden_size, config.initializer_range
        self.input_layernorm = RMSNorm(hidden, config.rms_norm_eps)
        self.self_attn = Attention(hidden, config.attention, std)
        self.post_attention_layernorm = RMSNorm(hidden, config.rms_norm_eps)
        self.routes = is_moe_layer(config, layer_id)
        self.mlp = MoE(hidden, config.moe, std) if self.routes else GatedMLP(hidden, config.intermediate_size, std)

    def forward(
        self,
        hidden_states: paddle.Tensor,
        layout: Layout,
        expert_mask: paddle.Tensor,
        top_k: int,
        pages: LayerPages | None = None,
    ) -> BlockOutput:
        """hidden_states [batch, seq, hidden], expert_mask float32 [experts]."""
        attended = self.self_attn(self.input_layernorm(hidden_states), layout, pages)
        normed, hidden_states = self.post_attention_layernorm.of_sum(attended, hidden_states)
        if not self.routes:
            return BlockOutput(hidden_states + self.mlp(normed), None)
        output = self.mlp(normed, expert_mask, top_k)
        return BlockOutput(hidden_states + output.hidden_states, output.tokens_per_expert)

    def gathered(self) -> LayerWeights | None:
        """The layer's weights as the compiled operator takes them, if it is a layer that the operator knows."""
        attention, dense = self.self_attn, self.mlp.shared_experts if self.routes else self.mlp
        projections = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        feed_forward = [] if dense is None else [dense.gate_proj, dense.up_proj, dense.down_proj]
        if not all(type(one).forward is Linear.forward and one.bias is None for one in projections + feed_forward):
            return None  # biases, or adapters in the place of a projection
        experts, score, scaling = [], "softmax", 1.0
        if self.routes:
            gate, matrices = self.mlp.gate, self.mlp.experts
            experts = [gate.weight, gate.expert_bias, matrices.gate_up_proj, matrices.down_proj]
            score, scaling = gate.score, gate.scaling
        norms = self.input_layernorm, self.post_attention_layernorm
        return LayerWeights(
            attention=[norms[0].weight, *(one.weight for one in projections), norms[1].weight],
            mlp=[one.weight for one in feed_forward],
            experts=experts,
            score=score,
            scaling=scaling,
            epsilon=norms[0].epsilon,
        )


class RunOutput(NamedTuple):
    hidden_states: paddle.Tensor  # [batch, seq, hidden]
    tokens_per_expert: list[paddle.Tensor | np.ndarray | None]  # of each block, as in `BlockOutput`


def run_blocks(
    blocks: Sequence[Block],
    hidden_states: paddle.Tensor,
    layout: Layout,
    expert_masks: Sequence[paddle.Tensor],
    top_k: int,
    pages: Sequence[LayerPages] | None = None,
) -> RunOutput:
    """The blocks one after the other, in one operator where that is compiled and knows them all.

    hidden_states [batch, seq, hidden]; expert_masks float32 [experts], one a block. Over pages, one of each block, it
    is a ragged row [1, tokens, hidden] under a `PagedMask`.
    """
    if pages is not None and is_native(hidden_states):
        for block, layer in zip(blocks, pages, strict=True):
            layer.weights = layer.weights or block.gathered()
        if all(layer.weights is not None for layer in pages):
            return _in_one_operator(blocks, hidden_states, layout, expert_masks, top_k, pages)
    loads = []
    for place, block in enumerate(blocks):
        layer = None if pages is None else pages[place]
        hidden_states, load = block(hidden_states, layout, expert_masks[place], top_k, layer)
        loads.append(load)
    return RunOutput(hidden_states, loads)


def _in_one_operator(blocks, hidden_states, layout: Layout, expert_masks, top_k: int, pages) -> RunOutput:
    output, loads = paged_decoder_layers(
        hidden_states,
        [layer.weights for layer in pages],
        layout.rotation,
        layout.mask.rows,
        expert_masks,
        top_k,
        [layer.keys for layer in pages],
        [layer.values for layer in pages],
    )
    rows = iter(loads.numpy())  # to cut the tensor takes as long as all of this function
    return RunOutput(output, [next(rows) if block.routes else None for block in blocks])
