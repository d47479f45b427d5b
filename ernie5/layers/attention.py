"""Unified multimodal attention: grouped queries, Uni-RoPE, any FlashMask (report §2.1, §5.3)."""

import paddle
from paddle import nn

from ernie5.config.schema import AttentionConfig
from ernie5.layers.layout import Layout
from ernie5.layers.linear import linear
from ernie5.layers.rope import rotate
from ernie5.ops.attention import flashmask_attention


class LayerCache:
    """Keys and values that one layer has seen, [batch, seq, kv_heads, head_dim] each; empty at first."""

    def __init__(self):
        self.key: paddle.Tensor | None = None
        self.value: paddle.Tensor | None = None

    def append(self, key: paddle.Tensor, value: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Adds the new keys and values behind the old and returns all of them."""
        if self.key is not None:
            key, value = paddle.concat([self.key, key], axis=1), paddle.concat([self.value, value], axis=1)
        self.key, self.value = key, value
        return key, value


class Attention(nn.Layer):
    """hidden_states [batch, seq, hidden] -> same shape; with a cache, `seq` queries against all keys cached so far."""

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

    def forward(self, hidden_states: paddle.Tensor, layout: Layout, cache: LayerCache | None = None) -> paddle.Tensor:
        query = rotate(self._heads(self.q_proj(hidden_states)), layout.rotation)
        key = rotate(self._heads(self.k_proj(hidden_states)), layout.rotation)
        value = self._heads(self.v_proj(hidden_states))
        if cache is not None:
            key, value = cache.append(key, value)
        return self.o_proj(flashmask_attention(query, key, value, layout.mask))

    def _heads(self, states: paddle.Tensor) -> paddle.Tensor:
        return states.reshape([*states.shape[:2], -1, self.head_dim])  # [batch, seq, heads, head_dim]
