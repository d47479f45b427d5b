"""The stack of decoder layers."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import paddle
from paddle import nn

from ernie5.config.schema import ModelConfig
from ernie5.layers.attention import LayerCache
from ernie5.layers.layout import Layout
from ernie5.layers.norm import RMSNorm
from ernie5.model.block import Block
from ernie5.model.subnet import Subnet


class DecoderOutput(NamedTuple):
    hidden_states: paddle.Tensor  # [batch, seq, hidden], after the final norm
    residual: paddle.Tensor  # [batch, seq, hidden], before it
    tokens_per_expert: dict[int, paddle.Tensor]  # layer id -> int64 [experts], of the layers that route


class Decoder(nn.Layer):
    """Runs the layers that the subnet keeps, in order. Layer ids and parameter names survive any cut."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.layers = nn.LayerList([Block(config, layer_id) for layer_id in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden_states: paddle.Tensor,
        layout: Layout,
        subnet: Subnet,
        caches: list[LayerCache] | None = None,
        taps: Mapping[int, Callable[[paddle.Tensor], paddle.Tensor]] | None = None,
    ) -> DecoderOutput:
        """hidden_states [batch, seq, hidden] (the embedded sequence) -> DecoderOutput.

        `taps`: by layer id, what reads the hidden states behind the layer and may change them; the subnet has them all.
        """
        taps = taps or {}
        assert set(taps) <= set(subnet.layer_ids), "a tapped layer is not in the subnet"
        tokens_per_expert = {}
        for layer_id in subnet.layer_ids:
            cache = caches[layer_id] if caches is not None else None
            output = self.layers[layer_id](hidden_states, layout, subnet.layer_masks[layer_id], subnet.top_k, cache)
            hidden_states = output.hidden_states
            if output.tokens_per_expert is not None:
                tokens_per_expert[layer_id] = output.tokens_per_expert
            if layer_id in taps:
                hidden_states = taps[layer_id](hidden_states)
        return DecoderOutput(self.norm(hidden_states), hidden_states, tokens_per_expert)
