"""A run of decoder layers as a program: the new tokens in, their hidden states, keys and values out."""

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from ernie5.config.schema import ModelConfig
from ernie5.inference.export.columns_mask import ColumnsMask
from ernie5.inference.export.paged_part import PagedDecoderPart, paged_example, paged_inputs
from ernie5.inference.export.part import Part
from ernie5.layers.layout import Layout
from ernie5.layers.norm import RMSNorm
from ernie5.layers.rope import Rotation
from ernie5.model.block import Block
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet


class PastKeys:
    """In the place of a layer's cache: what was read before is an input, what is new an output."""

    def __init__(self, key: paddle.Tensor, value: paddle.Tensor):
        """key and value [rows, past, kv_heads, head_dim]."""
        self.key, self.value = key, value
        self.new: list[paddle.Tensor] = []

    def append(self, key: paddle.Tensor, value: paddle.Tensor, *_: object) -> tuple[paddle.Tensor, paddle.Tensor]:
        self.new = [key, value]
        return paddle.concat([self.key, key], axis=1), paddle.concat([self.value, value], axis=1)


class DecoderPart(nn.Layer):
    """Some of the layers, in order; with `norm` also what is behind the last one.

    A pure function: nothing is written in place. `past` has keys and values of each layer by turns.
    """

    def __init__(self, blocks: Sequence[Block], masks: Sequence[paddle.Tensor], top_k: int, norm: RMSNorm | None):
        """masks float32 [experts]: of the experts that each layer keeps."""
        super().__init__()
        self.blocks, self.norm, self.top_k = nn.LayerList(blocks), norm, top_k
        for place, mask in enumerate(masks):
            self.register_buffer(f"mask_{place}", mask.clone(), persistable=True)

    def forward(
        self,
        embedded: paddle.Tensor,
        cos: paddle.Tensor,
        sin: paddle.Tensor,
        columns: paddle.Tensor,
        past: list[paddle.Tensor],
    ) -> list[paddle.Tensor]:
        """-> hidden states [rows, n, hidden] and (behind the last layer) the residual, then new keys and values."""
        layout = Layout(ColumnsMask(columns, paddle.shape(embedded)[1]), Rotation(cos, sin))
        hidden_states, new = embedded, []
        for place, block in enumerate(self.blocks):
            cache = PastKeys(past[2 * place], past[2 * place + 1])
            mask = getattr(self, f"mask_{place}")
            hidden_states = block(hidden_states, layout, mask, self.top_k, cache).hidden_states
            new += cache.new
        states = [hidden_states] if self.norm is None else [self.norm(hidden_states), hidden_states]
        return states + new


def decoder_inputs(config: ModelConfig, num_layers: int, dtype: str) -> list:
    """What `DecoderPart.forward` takes: any number of rows, of new tokens and of keys before them."""
    attention = config.attention
    angles = [None, None, 1, attention.head_dim // 2]
    keys = [None, None, attention.num_key_value_heads, attention.head_dim]
    return [
        InputSpec([None, None, config.hidden_size], dtype, "embedded"),
        InputSpec(angles, "float32", "cos"),
        InputSpec(angles, "float32", "sin"),
        InputSpec([None, None, 2], "int32", "columns"),
        [InputSpec(keys, dtype, f"{what}_{i}") for i in range(num_layers) for what in ("keys", "values")],
    ]


def decoder_parts(model: Ernie5ForCausalLM, subnet: Subnet, native: bool) -> list[Part]:
    """The layers that the subnet keeps as one program; where codes of sound are chosen behind layers, one up to each.

    native: around the compiled operator, over pages; else pure functions of plain operators.
    """
    config, ids = model.config, list(subnet.layer_ids)
    levels = config.audio.num_codebooks if config.audio is not None else 1
    parts, start = [], 0
    for number, end in enumerate(range(len(ids) - levels + 1, len(ids) + 1)):
        run = ids[start:end]
        blocks, masks = [model.decoder.layers[i] for i in run], [subnet.layer_masks[i] for i in run]
        norm, name = model.decoder.norm if end == len(ids) else None, f"decoder_{number}"
        make, inputs, example = (
            (PagedDecoderPart, paged_inputs, paged_example)
            if native
            else (DecoderPart, decoder_inputs, example_of_layers)
        )
        outputs = ["residual"] if norm is None else ["hidden_states", "residual"]
        if native:
            outputs.append("loads")
        layer, count = make(blocks, masks, subnet.top_k, norm), len(run)
        specs = inputs(config, count, str(model.dtype).removeprefix("paddle."))
        parts.append(Part(name, layer, specs, outputs, example(config, count), extra={"layers": run}))
        start = end
    return parts


def example_of_layers(config: ModelConfig, num_layers: int) -> list:
    """Two rows of five tokens behind three keys, one of which the first tokens do not see."""
    rng, attention = np.random.default_rng(0), config.attention
    rows, tokens, past = 2, 5, 3
    angles = rng.uniform(0, 6, [rows, tokens, 1, attention.head_dim // 2]).astype(np.float32)
    columns = np.stack([np.full(past + tokens, tokens), np.arange(past + tokens) - past], -1)
    columns[0] = 2, 0
    keys = [rows, past, attention.num_key_value_heads, attention.head_dim]
    return [
        rng.normal(size=[rows, tokens, config.hidden_size]).astype(np.float32),
        np.cos(angles),
        np.sin(angles),
        columns[None].astype(np.int32),
        [rng.normal(size=keys).astype(np.float32) for _ in range(2 * num_layers)],
    ]
