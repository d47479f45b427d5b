"""One decoder layer: attention, then a dense or a mixture-of-experts feed-forward, each on a normed residual stream."""

from typing import NamedTuple

import paddle
from paddle import nn

from ernie5.config.schema import ModelConfig
from ernie5.layers.attention import Attention, LayerCache
from ernie5.layers.layout import Layout
from ernie5.layers.mlp import GatedMLP
from ernie5.layers.moe import MoE
from ernie5.layers.norm import RMSNorm


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
        cache: LayerCache | None = None,
    ) -> BlockOutput:
        """hidden_states [batch, seq, hidden], expert_mask float32 [experts]."""
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), layout, cache)
        normed = self.post_attention_layernorm(hidden_states)
        if not self.routes:
            return BlockOutput(hidden_states + self.mlp(normed), None)
        output = self.mlp(normed, expert_mask, top_k)
        return BlockOutput(hidden_states + output.hidden_states, output.tokens_per_expert)
