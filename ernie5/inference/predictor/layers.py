"""The layers of an exported model and both its ends: as one program, or as one each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from ernie5.config.schema import ModelConfig
from ernie5.inference.predictor.folder import Manifest
from ernie5.inference.predictor.program import Program
from ernie5.layers.layout import Layout
from ernie5.layers.pages import PAGE_KEYS, LayerPages
from ernie5.modality.audio import Tap
from ernie5.model.block import is_moe_layer
from ernie5.model.decoder import DecoderOutput


class SeparatePrograms:
    """`words` with the ends, and `decoder_0` and so on; something may be done between them."""

    def __init__(self, manifest: Manifest, programs: Mapping[str, Program], config: ModelConfig, dtype: paddle.dtype):
        self._manifest, self._programs, self._config = manifest, programs, config
        self._runs = sorted(name for name in programs if name.startswith("decoder_"))
        self._no_ids = paddle.zeros([0], "int64")
        self._no_states = paddle.zeros([0, config.hidden_size], dtype)

    def embed(self, ids: paddle.Tensor) -> paddle.Tensor:
        """int64 [n] -> [n, hidden]."""
        return self._programs["words"](ids, self._no_states)[0]

    def logits(self, hidden_states: paddle.Tensor) -> paddle.Tensor:
        """[n, hidden] -> [n, vocab]."""
        return self._programs["words"](self._no_ids, hidden_states)[1]

    def decoder(
        self, hidden_states: paddle.Tensor, layout: Layout, pages: Mapping[int, LayerPages], taps: Mapping[int, Tap]
    ) -> DecoderOutput:
        """As `Decoder`."""
        loads: dict[int, np.ndarray] = {}
        found = {"residual": hidden_states}
        for name in self._runs:
            part = self._manifest.parts[name]
            own = [pages[i] for i in part["layers"]]
            found = run_layers(self._programs[name], part, self._manifest.ops, [found["residual"]], layout, own)
            if "loads" in found:
                loads |= _by_layer(self._config, part["layers"], found["loads"])
            if part["layers"][-1] in taps:
                found["residual"] = taps[part["layers"][-1]](found["residual"])
        return DecoderOutput(found["hidden_states"], found["residual"], loads)

    def read_words(
        self, ids: np.ndarray, layout: Layout, pages: Mapping[int, LayerPages], asked: np.ndarray
    ) -> tuple[DecoderOutput, paddle.Tensor]:
        """As `Ernie5ForCausalLM.read_words`."""
        decoded = self.decoder(self.embed(paddle.to_tensor(ids)).unsqueeze(0), layout, pages, {})
        return decoded, self.logits(paddle.gather(decoded.hidden_states.squeeze(0), paddle.to_tensor(asked)))


class StepProgram:
    """`step`, all at once; for one of its ends, or the layers alone, the others get nothing to do."""

    def __init__(self, manifest: Manifest, programs: Mapping[str, Program], config: ModelConfig, dtype: paddle.dtype):
        part, attention = manifest.parts["step"], config.attention
        self._program, self._outputs, self._config = programs["step"], part["outputs"], config
        self._layer_ids = part["layers"]
        self._no_ids, self._no_states = paddle.zeros([0], "int64"), paddle.zeros([0, config.hidden_size], dtype)
        angles = paddle.zeros([1, 0, 1, attention.head_dim // 2])
        page = paddle.zeros([0, PAGE_KEYS, attention.num_key_value_heads, attention.head_dim], dtype)
        rows = paddle.zeros([0, 3], "int64"), paddle.zeros([0, 0], "int32"), paddle.zeros([0, PAGE_KEYS, 2], "int32")
        self._nothing = [angles, angles, *rows, *(2 * len(self._layer_ids) * [page])]
        self._numbers: dict[bytes, paddle.Tensor] = {}

    def embed(self, ids: paddle.Tensor) -> paddle.Tensor:
        """int64 [n] -> [n, hidden]."""
        return self._run(ids, self._no_states, self._no_ids, self._no_ids, self._no_states, *self._nothing)["embedded"]

    def logits(self, hidden_states: paddle.Tensor) -> paddle.Tensor:
        """[n, hidden] -> [n, vocab]."""
        return self._run(self._no_ids, self._no_states, self._no_ids, self._no_ids, hidden_states, *self._nothing)[
            "logits"
        ]

    def decoder(
        self, hidden_states: paddle.Tensor, layout: Layout, pages: Mapping[int, LayerPages], taps: Mapping[int, Tap]
    ) -> DecoderOutput:
        """As `Decoder`."""
        assert not taps, "nothing can be done between layers"
        states, order = hidden_states.squeeze(0), self._number(np.arange(hidden_states.shape[1]))
        found = self._run(self._no_ids, states, order, self._no_ids, self._no_states, *self._paged(layout, pages))
        return self._decoded(found)

    def read_words(
        self, ids: np.ndarray, layout: Layout, pages: Mapping[int, LayerPages], asked: np.ndarray
    ) -> tuple[DecoderOutput, paddle.Tensor]:
        """As `Ernie5ForCausalLM.read_words`."""
        order, asked = self._number(np.arange(len(ids))), self._number(asked)
        given = paddle.to_tensor(ids), self._no_states, order, asked, self._no_states
        found = self._run(*given, *self._paged(layout, pages))
        return self._decoded(found), found["logits"]

    def _paged(self, layout: Layout, pages: Mapping[int, LayerPages]) -> list[paddle.Tensor]:
        own = [pages[i] for i in self._layer_ids]
        return [*layout.rotation, *layout.mask.rows, *(one.keys for one in own), *(one.values for one in own)]

    def _run(self, *inputs: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return dict(zip(self._outputs, self._program(*inputs), strict=True))

    def _decoded(self, found: Mapping[str, paddle.Tensor]) -> DecoderOutput:
        loads = _by_layer(self._config, self._layer_ids, found["loads"])
        return DecoderOutput(found["hidden_states"], found["residual"], loads)

    def _number(self, numbers: np.ndarray) -> paddle.Tensor:
        """int64 [n]; from step to step they are mostly the same, and to make a tensor takes a while."""
        key = numbers.tobytes()
        if key not in self._numbers:
            if len(self._numbers) > 64:
                self._numbers.clear()
            self._numbers[key] = paddle.to_tensor(numbers)
        return self._numbers[key]


def run_layers(
    program: Program,
    part: Mapping[str, Any],
    ops: str,
    states: Sequence[paddle.Tensor],
    layout: Layout,
    pages: Sequence[LayerPages],
) -> dict[str, paddle.Tensor]:
    """The outputs of a part with layers by name; their pages then have the new keys."""
    if ops == "native":  # which writes them itself
        keys, values = [layer.keys for layer in pages], [layer.values for layer in pages]
        found = program(*states, *layout.rotation, *layout.mask.rows, *keys, *values)
    else:
        sources, columns = layout.mask.past_first()
        past = [tensor for layer in pages for tensor in layer.take(sources)]
        found = program(*states, *layout.rotation, paddle.to_tensor(columns), *past)
        new = found[len(found) - len(past) :]
        for place, layer in enumerate(pages):
            layer.put(layout.mask.slots, *new[2 * place : 2 * place + 2])
    return dict(zip(part["outputs"], found, strict=False))


def _by_layer(config: ModelConfig, layer_ids: Sequence[int], loads: paddle.Tensor) -> dict[int, np.ndarray]:
    """Loads [routing layers, experts] by layer id."""
    return dict(zip((i for i in layer_ids if is_moe_layer(config, i)), loads.numpy(), strict=True))
