"""One decoder layer: attention, then a dense or a mixture-of-experts feed-forward, each on a normed residual stream."""

from typing import NamedTuple

import paddle
from paddle import nn

from ernie5.config.schema import ModelConfig
from ernie5.layers.attention import Attention, LayerCache
from ernie5.layers.layout import Layout
from ernie5.layers.linear import Linear
from ernie5.layers.mlp import GatedMLP
from ernie5.layers.moe import MoE
from ernie5.layers.norm import RMSNorm
from ernie5.ops import decoder_block
from ernie5.ops.decoder_block import DecoderBlockWeights


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
        if cache is not None and decoder_block.is_native(hidden_states):
            cache.weights = cache.weights or self._gathered()
            if cache.weights is not None:
                return self._in_one_operator(hidden_states, layout, expert_mask, top_k, cache)
        attended = self.self_attn(self.input_layernorm(hidden_states), layout, cache)
        normed, hidden_states = self.post_attention_layernorm.of_sum(attended, hidden_states)
        if not self.routes:
            return BlockOutput(hidden_states + self.mlp(normed), None)
        output = self.mlp(normed, expert_mask, top_k)
        return BlockOutput(hidden_states + output.hidden_states, output.tokens_per_expert)

    def _in_one_operator(
        self, hidden_states: paddle.Tensor, layout: Layout, expert_mask: paddle.Tensor, top_k: int, cache: LayerCache
    ) -> BlockOutput:
        batch, new, _ = hidden_states.shape
        cache.reserve(batch, new, *self.self_attn.kv_shape, hidden_states.dtype)
        output, tokens_per_expert = decoder_block.decoder_block(
            hidden_states, cache.weights, layout.rotation, layout.mask, expert_mask, top_k, cache.buffers
        )
        cache.length += new
        return BlockOutput(output, tokens_per_expert if self.routes else None)

    def _gathered(self) -> DecoderBlockWeights | None:
        """The layer's weights as the compiled operator takes them, if it is a layer that the operator knows."""
        attention, dense = self.self_attn, self.mlp.shared_experts if self.routes else self.mlp
        projections = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        feed_forward = [] if dense is None else [dense.gate_proj, dense.up_proj, dense.down_proj]
        if not all(type(one) is Linear and one.bias is None for one in projections + feed_forward):
            return None  # biases, or adapters in the place of a projection
        experts, score, scaling = [], "softmax", 1.0
        if self.routes:
            gate, matrices = self.mlp.gate, self.mlp.experts
            experts = [gate.weight, gate.expert_bias, matrices.gate_up_proj, matrices.down_proj]
            score, scaling = gate.score, gate.scaling
        norms = self.input_layernorm, self.post_attention_layernorm
        return DecoderBlockWeights(
            attention=[norms[0].weight, *(one.weight for one in projections), norms[1].weight],
            mlp=[one.weight for one in feed_forward],
            experts=experts,
            score=score,
            scaling=scaling,
            epsilon=norms[0].epsilon,
        )
