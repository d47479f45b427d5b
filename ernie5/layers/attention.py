"""Unified multimodal attention: grouped queries, Uni-RoPE, any FlashMask (report §2.1, §5.3)."""

from collections.abc import Callable

import paddle
from paddle import nn

from ernie5.config.schema import AttentionConfig
from ernie5.layers.layout import Layout
from ernie5.layers.linear import linear
from ernie5.layers.rope import rotate
from ernie5.ops.attention import flashmask_attention


class LayerCache:
    """Keys and values that one layer has seen, [batch, length, kv_heads, head_dim] each; empty at first.

    They stand at the head of two buffers, in which `reserve` makes room for tokens that an operator adds in place.
    """

    def __init__(self):
        self.length = 0
        self.buffers: tuple[paddle.Tensor, paddle.Tensor] | None = None  # [batch, capacity, kv_heads, head_dim]
        self.weights: object = None  # of the layer, where a compiled operator has gathered them

    @property
    def key(self) -> paddle.Tensor:
        return self._seen(self.buffers[0])

    @property
    def value(self) -> paddle.Tensor:
        return self._seen(self.buffers[1])

    def append(self, key: paddle.Tensor, value: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Adds the new keys and values behind the old and returns all of them."""
        if self.buffers is not None:
            key, value = paddle.concat([self.key, key], axis=1), paddle.concat([self.value, value], axis=1)
        self.buffers, self.length = (key, value), key.shape[1]
        return key, value

    def reserve(self, batch: int, count: int, kv_heads: int, head_dim: int, dtype: paddle.dtype) -> None:
        """Room for `count` more tokens; where there is too little, twice what is needed."""
        needed = self.length + count
        if self.buffers is not None and self.buffers[0].shape[1] >= needed:
            return
        room = paddle.empty([batch, 2 * needed - self.length, kv_heads, head_dim], dtype)
        if self.buffers is None:
            self.buffers = room, room.clone()
        else:
            self.buffers = paddle.concat([self.key, room], axis=1), paddle.concat([self.value, room], axis=1)

    def change(self, function: Callable[[paddle.Tensor], paddle.Tensor]) -> None:
        """Applies `function` to the keys and to the values, if there are any."""
        if self.buffers is not None:
            self.buffers = function(self.key), function(self.value)
            self.length = self.buffers[0].shape[1]

    def _seen(self, buffer: paddle.Tensor) -> paddle.Tensor:
        return buffer if buffer.shape[1] == self.length else buffer[:, : self.length]


class Attention(nn.Layer):
    """hidden_states [batch, seq, hidden] -> same shape; with a cache, `seq` queries against all keys cached so far."""

    def __init__(self, hidden_size: int, config: AttentionConfig, initializer_range: float):
        super().__init__()
        self.head_dim = config.head_dim
        self.kv_shape = config.num_key_value_heads, config.head_dim  # of a token's keys, and of its values
        width, kv_width = (
            heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        self.q_proj = linear(hidden_size, width, initializer_range, config.use_bias)
        self.k_proj = linear(hidden_size, kv_width, initializer_range, config.use_bias)
        self.v_proj = linear(hidden_size, kv_width, initializer_range, config.use_bias)
        self.o_proj = linear(width, hidden_size, initializer_range, config.use_bias)
        self.attend = flashmask_attention  # the seam: replaced where a row lies on several processes

    def forward(self, hidden_states: paddle.Tensor, layout: Layout, cache: LayerCache | None = None) -> paddle.Tensor:
        query = rotate(self._heads(self.q_proj(hidden_states)), layout.rotation)
        key = rotate(self._heads(self.k_proj(hidden_states)), layout.rotation)
        value = self._heads(self.v_proj(hidden_states))
        if cache is not None:
            key, value = cache.append(key, value)
        return self.o_proj(self.attend(query, key, value, layout.mask))

    def _heads(self, states: paddle.Tensor) -> paddle.Tensor:
        return states.reshape([*states.shape[:2], -1, self.head_dim])  # [batch, seq, heads, head_dim]
