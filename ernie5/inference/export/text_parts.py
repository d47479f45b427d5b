"""Words in, their logits out, and the prediction block, as programs."""

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from ernie5.inference.export.columns_mask import ColumnsMask
from ernie5.inference.export.decoder_part import PastKeys, decoder_inputs, example_of_layers
from ernie5.inference.export.paged_part import PagedDecoderPart, paged_example, paged_inputs
from ernie5.inference.export.part import Part
from ernie5.layers.layout import Layout
from ernie5.layers.rope import Rotation
from ernie5.modality.text import TextModality
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.mtp import MultiTokenPrediction
from ernie5.model.subnet import Subnet
from ernie5.ops import backend


class WordsPart(nn.Layer):
    """Both ends of the model in one program, because they may be one matrix, which then lies in memory once.

    ids int64 [n] -> [n, hidden], and hidden_states [m, hidden] -> logits [m, vocab]; n or m may be 0.
    """

    def __init__(self, text: TextModality, native: bool):
        """native: by the compiled operator, which reads the matrix faster for the few rows of a step."""
        super().__init__()
        self.text, self.native = text, native

    def forward(self, ids: paddle.Tensor, hidden_states: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        return self.text.embed_tokens(ids), self.logits(hidden_states)

    def logits(self, hidden_states: paddle.Tensor) -> paddle.Tensor:
        """[m, hidden] -> [m, vocab]."""
        tied = self.text.lm_head is None
        head = self.text.embed_tokens.weight if tied else self.text.lm_head.weight
        if self.native:
            return backend.call("head_logits", [hidden_states, head], not tied)[0]
        return paddle.matmul(hidden_states, head, transpose_y=tied)


class PredictionPart(nn.Layer):
    """The prediction block: what is read is the residual of tokens and the embedded tokens behind them."""

    def __init__(self, mtp: MultiTokenPrediction, mask: paddle.Tensor, top_k: int):
        super().__init__()
        self.mtp, self.top_k = mtp, top_k
        self.register_buffer("mask", mask.clone())

    def forward(
        self,
        residual: paddle.Tensor,
        following: paddle.Tensor,
        cos: paddle.Tensor,
        sin: paddle.Tensor,
        columns: paddle.Tensor,
        past: list[paddle.Tensor],
    ) -> list[paddle.Tensor]:
        """-> hidden states [rows, n, hidden] for the head, then new keys and values."""
        layout = Layout(ColumnsMask(columns, paddle.shape(residual)[1]), Rotation(cos, sin))
        cache, mtp = PastKeys(*past), self.mtp
        states = mtp.block(mtp.joined(residual, following), layout, self.mask, self.top_k, cache).hidden_states
        return [mtp.norm(states), *cache.new]


class PagedPredictionPart(PagedDecoderPart):
    """The prediction block over pages, around the compiled operator."""

    def __init__(self, mtp: MultiTokenPrediction, mask: paddle.Tensor, top_k: int):
        super().__init__([mtp.block], [mask], top_k, mtp.norm)
        self.mtp = mtp

    def forward(
        self,
        residual: paddle.Tensor,
        following: paddle.Tensor,
        cos: paddle.Tensor,
        sin: paddle.Tensor,
        rows: paddle.Tensor,
        tables: paddle.Tensor,
        seen: paddle.Tensor,
        keys: list[paddle.Tensor],
        values: list[paddle.Tensor],
    ) -> paddle.Tensor:
        """-> hidden states [1, tokens, hidden] for the head."""
        joined = self.mtp.joined(residual, following)
        return super().forward(joined, cos, sin, rows, tables, seen, keys, values)[0]


def words_part(model: Ernie5ForCausalLM, native: bool) -> Part:
    """`words`."""
    config, rng, dtype = model.config, np.random.default_rng(0), str(model.dtype).removeprefix("paddle.")
    states = rng.normal(size=[3, config.hidden_size]).astype(np.float32)
    return Part(
        "words",
        WordsPart(model.text, native),
        [InputSpec([None], "int64", "ids"), InputSpec([None, config.hidden_size], dtype, "hidden_states")],
        ["embedded", "logits"],
        [rng.integers(0, config.vocab_size, 2), states],
    )


def prediction_parts(model: Ernie5ForCausalLM, subnet: Subnet, native: bool) -> list[Part]:
    """`prediction`, where the model has the block."""
    if model.mtp is None:
        return []
    config, dtype = model.config, str(model.dtype).removeprefix("paddle.")
    mask, top_k = subnet.layer_masks[model.mtp.layer_id], subnet.top_k
    layer = (PagedPredictionPart if native else PredictionPart)(model.mtp, mask, top_k)
    (embedded, *others), (first, *rest) = (
        (paged_inputs(config, 1, dtype), paged_example(config, 1))
        if native
        else (decoder_inputs(config, 1, dtype), example_of_layers(config, 1))
    )
    specs = [InputSpec(embedded.shape, dtype, name) for name in ("residual", "following")]
    return [Part("prediction", layer, [*specs, *others], ["hidden_states"], [first, first[:, ::-1] * 1, *rest])]
