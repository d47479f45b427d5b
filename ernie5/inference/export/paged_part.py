"""The layers as one program around the compiled operator, which reads and writes pages of keys in place."""

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from ernie5.config.schema import ModelConfig
from ernie5.errors import UserError
from ernie5.layers.norm import RMSNorm
from ernie5.layers.pages import PAGE_KEYS
from ernie5.model.block import Block
from ernie5.ops import backend
from ernie5.ops.paged_decoder_layers import HAS_EXPERTS, HAS_MLP


class PagedDecoderPart(nn.Layer):
    """Some of the layers, in order; with `norm` also what is behind the last one.

    Paddle Inference hands the memory of its inputs to operators as it is, so the caller's pages have the new keys.
    """

    def __init__(self, blocks: Sequence[Block], masks: Sequence[paddle.Tensor], top_k: int, norm: RMSNorm | None):
        """masks float32 [experts]: of the experts that each layer keeps. UserError: no layers for the operator."""
        super().__init__()
        self.blocks, self.norm, self.top_k = nn.LayerList(blocks), norm, top_k
        for place, mask in enumerate(masks):
            self.register_buffer(f"mask_{place}", mask.clone(), persistable=True)
        layers = [block.gathered() for block in blocks]
        if any(layer is None for layer in layers):
            raise UserError("layers with biases or adapters are not known to the compiled operator: use --ops none")
        self.kinds = [HAS_MLP * bool(layer.mlp) + HAS_EXPERTS * bool(layer.experts) for layer in layers]
        self.settings = layers[0].score == "sigmoid", layers[0].scaling, layers[0].epsilon

    def weights(self) -> list[paddle.Tensor]:
        found = []
        for place, block in enumerate(self.blocks):
            layer = block.gathered()
            found += layer.attention + layer.mlp
            if layer.experts:
                router, bias, gate_up, down = layer.experts
                found += [router, bias, getattr(self, f"mask_{place}"), gate_up, down]
        return found

    def forward(
        self,
        embedded: paddle.Tensor,
        cos: paddle.Tensor,
        sin: paddle.Tensor,
        rows: paddle.Tensor,
        tables: paddle.Tensor,
        seen: paddle.Tensor,
        keys: list[paddle.Tensor],
        values: list[paddle.Tensor],
    ) -> list[paddle.Tensor]:
        """-> hidden states [1, tokens, hidden], (behind the last layer) the residual, and the experts' loads."""
        inputs = [embedded, cos, sin, rows, tables, seen, keys, values, self.weights()]
        found = backend.call("paged_decoder_layers", inputs, self.kinds, self.top_k, *self.settings)
        hidden_states, loads = found[0], found[1]
        return [hidden_states, loads] if self.norm is None else [self.norm(hidden_states), hidden_states, loads]


def paged_inputs(config: ModelConfig, num_layers: int, dtype: str) -> list:
    """What `PagedDecoderPart.forward` takes: one ragged row of tokens, and the pages of each layer."""
    attention = config.attention
    angles = [1, None, 1, attention.head_dim // 2]
    pages = [None, PAGE_KEYS, attention.num_key_value_heads, attention.head_dim]
    return [
        InputSpec([1, None, config.hidden_size], dtype, "embedded"),
        InputSpec(angles, "float32", "cos"),
        InputSpec(angles, "float32", "sin"),
        InputSpec([None, 3], "int64", "rows"),
        InputSpec([None, None], "int32", "tables"),
        InputSpec([None, PAGE_KEYS, 2], "int32", "seen"),
        [InputSpec(pages, dtype, f"keys_{i}") for i in range(num_layers)],
        [InputSpec(pages, dtype, f"values_{i}") for i in range(num_layers)],
    ]


def paged_example(config: ModelConfig, num_layers: int) -> list:
    """Two sequences, of which one has keys in the second of its pages."""
    rng, attention, tokens = np.random.default_rng(0), config.attention, 6
    angles = rng.uniform(0, 6, [1, tokens, 1, attention.head_dim // 2]).astype(np.float32)
    pages = [4, PAGE_KEYS, attention.num_key_value_heads, attention.head_dim]
    return [
        rng.normal(size=[1, tokens, config.hidden_size]).astype(np.float32),
        np.cos(angles),
        np.sin(angles),
        np.array([[5, 0, 0], [1, 70, 70]]),
        np.array([[2, 0], [3, 1]], np.int32),
        np.broadcast_to(np.array([0, 2**31 - 1], np.int32), [4, PAGE_KEYS, 2]).copy(),
        *([rng.normal(size=pages).astype(np.float32) for _ in range(num_layers)] for _ in range(2)),
    ]
