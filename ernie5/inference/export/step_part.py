"""All that a step of words takes in one program, around the compiled operator: ids in, logits out."""

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from ernie5.inference.export.paged_part import PagedDecoderPart, paged_example, paged_inputs
from ernie5.inference.export.part import Part
from ernie5.inference.export.text_parts import WordsPart
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet


class StepPart(nn.Layer):
    """Both ends of the model around its layers. Whatever is not wanted has no rows: then it takes no time.

    ids int64 [a] and states [b, hidden]: words, and tokens that have been embedded. order int64 [tokens]: the tokens of
    the step, numbers of rows of both, one behind the other. asked int64 [m] and others [c, hidden]: numbers of the
    tokens, and hidden states of old, that the head reads.
    """

    def __init__(self, words: WordsPart, decoder: PagedDecoderPart):
        super().__init__()
        self.words, self.decoder = words, decoder

    def forward(
        self,
        ids: paddle.Tensor,
        states: paddle.Tensor,
        order: paddle.Tensor,
        asked: paddle.Tensor,
        others: paddle.Tensor,
        cos: paddle.Tensor,
        sin: paddle.Tensor,
        rows: paddle.Tensor,
        tables: paddle.Tensor,
        seen: paddle.Tensor,
        keys: list[paddle.Tensor],
        values: list[paddle.Tensor],
    ) -> list[paddle.Tensor]:
        """-> logits [m + c, vocab], hidden states and residual [1, tokens, hidden], the experts' loads, and the words
        [a, hidden]."""
        embedded = self.words.text.embed_tokens(ids)
        tokens = paddle.gather(paddle.concat([embedded, states]), order).unsqueeze(0)
        hidden_states, residual, loads = self.decoder(tokens, cos, sin, rows, tables, seen, keys, values)
        read = paddle.concat([paddle.gather(hidden_states.squeeze(0), asked), others])
        return [self.words.logits(read), hidden_states, residual, loads, embedded]


def step_part(model: Ernie5ForCausalLM, subnet: Subnet) -> Part:
    """`step`, of all the layers that the subnet keeps."""
    config, ids, dtype = model.config, list(subnet.layer_ids), str(model.dtype).removeprefix("paddle.")
    blocks, masks = [model.decoder.layers[i] for i in ids], [subnet.layer_masks[i] for i in ids]
    layer = StepPart(
        WordsPart(model.text, native=True), PagedDecoderPart(blocks, masks, subnet.top_k, model.decoder.norm)
    )
    (_, *specs), (tokens, *example) = paged_inputs(config, len(ids), dtype), paged_example(config, len(ids))
    rng, count = np.random.default_rng(0), tokens.shape[1]
    inputs = [
        InputSpec([None], "int64", "ids"),
        InputSpec([None, config.hidden_size], dtype, "states"),
        InputSpec([None], "int64", "order"),
        InputSpec([None], "int64", "asked"),
        InputSpec([None, config.hidden_size], dtype, "others"),
    ]
    given = [
        rng.integers(0, config.vocab_size, 4),
        tokens[0, 4:],
        np.arange(count)[::-1] * 1,
        np.array([3, 0]),
        tokens[0, :1],
    ]
    outputs = ["logits", "hidden_states", "residual", "loads", "embedded"]
    return Part("step", layer, [*inputs, *specs], outputs, [*given, *example], extra={"layers": ids})
