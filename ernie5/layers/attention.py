"""Unified multimodal attention: grouped queries, Uni-RoPE, any FlashMask (report §2.1, §5.3)."""

import paddle
from paddle import nn

from ernie5.config.schema import AttentionConfig
from ernie5.layers.layout import Layout
from ernie5.layers.linear import linear
from ernie5.layers.pages import LayerPages
from ernie5.layers.rope import rotate
from ernie5.ops.attention import flashmask_attention


class Attention(nn.Layer):
    """hidden_states [batch, seq, hidden] -> same shape; over pages, a ragged row of tokens against their keys."""

    def __init__(self, hidden_size: int, config: AttentionConfig, initializer_range: float):
        super().__init__()
        self.head_dim = config.head_dim
        width, kv_width = (
            heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        self.q_proj = linear(hidden_size, width, initializer_range, config.use_bias)
        self.k_proj = linear(hidden_size, kv_width, initializer_range, config.use_bias)
        self.v_proj = linear(hidden_size, kv_width, initializer_range, config.use_bias)
        self.o_proj = linear(width, hidden_size, initializer_range, config.use_bias)
        self.attend = flashmask_attention  # the seam: replaced where a row lies on several processes

    def forward(self, hidden_states: paddle.Tensor, layout: Layout, pages: LayerPages | None = None) -> paddle.Tensor:
        query = rotate(self._heads(self.q_proj(hidden_states)), layout.rotation)
        key = rotate(self._heads(self.k_proj(hidden_states)), layout.rotation)
        value = self._heads(self.v_proj(hidden_states))
        if pages is not None:
            key, value = pages.append(key, value, layout.mask)
        return self.o_proj(self.attend(query, key, value, layout.mask))

    def _heads(self, states: paddle.Tensor) -> paddle.Tensor:
        return states.reshape([*states.shape[:2], -1, self.head_dim])  # [batch, seq, heads, head_dim]
