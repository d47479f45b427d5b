"""The stack of decoder layers."""

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import paddle
from paddle import nn

from ernie5.config.schema import ModelConfig
from ernie5.layers.layout import Layout
from ernie5.layers.norm import RMSNorm
from ernie5.layers.pages import LayerPages
from ernie5.modality.audio import Tap
from ernie5.model.block import Block, run_blocks
from ernie5.model.subnet import Subnet


class DecoderOutput(NamedTuple):
    hidden_states: paddle.Tensor  # [batch, seq, hidden], after the final norm
    residual: paddle.Tensor  # [batch, seq, hidden], before it
    tokens_per_expert: dict[int, paddle.Tensor]  # layer id -> int64 [experts], of layers that route; NumPy over pages


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
        pages: Mapping[int, LayerPages] | None = None,
        taps: Mapping[int, Tap] | None = None,
    ) -> DecoderOutput:
        """hidden_states [batch, seq, hidden] (the embedded sequence) -> DecoderOutput.

        `pages`: by layer id, those of the sequences whose tokens `hidden_states` has, one behind the other, as in
        `run_blocks`. `taps`: by layer id, what reads the hidden states behind the layer and may change them; the subnet
        has them all.
        """
        return self.read(*self.run(hidden_states, layout, subnet, subnet.layer_ids, pages, taps))

    def run(
        self,
        hidden_states: paddle.Tensor,
        layout: Layout,
        subnet: Subnet,
        layer_ids: Sequence[int],
        pages: Mapping[int, LayerPages] | None = None,
        taps: Mapping[int, Tap] | None = None,
    ) -> tuple[paddle.Tensor, dict[int, paddle.Tensor]]:
        """Through some of the subnet's layers -> hidden states and the loads of the layers that route."""
        taps = taps or {}
        assert set(taps) <= set(layer_ids), "a tapped layer is not in the subnet"
        tokens_per_expert = {}
        for run_ids in _runs(layer_ids, taps):
            blocks, masks = [self.layers[i] for i in run_ids], [subnet.layer_masks[i] for i in run_ids]
            run_pages = None if pages is None else [pages[i] for i in run_ids]
            hidden_states, loads = run_blocks(blocks, hidden_states, layout, masks, subnet.top_k, run_pages)
            loads = zip(run_ids, loads, strict=True)
            tokens_per_expert.update({layer_id: load for layer_id, load in loads if load is not None})
            if run_ids[-1] in taps:
                hidden_states = taps[run_ids[-1]](hidden_states)
        return hidden_states, tokens_per_expert

    def read(self, residual: paddle.Tensor, tokens_per_expert: dict[int, paddle.Tensor]) -> DecoderOutput:
        """What `run` gives behind the last layer, normed for the heads."""
        return DecoderOutput(self.norm(residual), residual, tokens_per_expert)


def _runs(layer_ids: Sequence[int], taps: Container[int]) -> list[list[int]]:
    """Cut behind each tapped layer."""
    runs = [[]]
    for layer_id in layer_ids:
        runs[-1].append(layer_id)
        if layer_id in taps:
            runs.append([])
    return [run for run in runs if run]
