"""An exported model in the place of `Ernie5ForCausalLM`: the same methods, run by Paddle Inference."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle

from ernie5.errors import UserError
from ernie5.inference.predictor.folder import Manifest, read_manifest
from ernie5.inference.predictor.program import Program
from ernie5.layers.layout import Layout
from ernie5.layers.pages import LayerPages
from ernie5.modality.audio import Tap
from ernie5.model.block import BlockOutput, is_moe_layer
from ernie5.model.decoder import DecoderOutput
from ernie5.model.folder import read_config
from ernie5.model.subnet import Subnet
from ernie5.ops import backend


class ExportedModel:
    """What the generation engine asks of a model. It has no weights of its own, and cannot be trained."""

    training = False

    def __init__(self, folder: Path | str, threads: int = 1, verify: bool = True):
        """UserError: not the folder of an exported model, files that are not those that were written (`verify`), or
        compiled operators that this machine lacks."""
        manifest = read_manifest(folder, verify)
        if manifest.ops == "native":
            _require_operators(manifest)
        self.config, self.manifest = read_config(folder), manifest
        self.dtype = paddle.bfloat16 if manifest.about.get("dtype") == "bfloat16" else paddle.float32
        self._programs = {
            name: Program(manifest.folder / f"{name}.json", manifest.folder / part["weights"], part["inputs"], threads)
            for name, part in manifest.parts.items()
        }
        decoders = sorted(name for name in manifest.parts if name.startswith("decoder_"))
        self._layers = {name: manifest.parts[name]["layers"] for name in decoders}
        self.text = SimpleNamespace(embed=self._embed_words)
        self._no_ids = paddle.zeros([0], "int64")
        self._no_states = paddle.zeros([0, self.config.hidden_size], self.dtype)
        predicts = "prediction" in self._programs
        self.mtp = SimpleNamespace(layer_id=self.config.num_hidden_layers) if predicts else None
        self.audio = None

    def eval(self) -> "ExportedModel":
        """It is in no other mode."""
        return self

    def logits(self, hidden_states: paddle.Tensor) -> paddle.Tensor:
        """[rows, hidden] -> next-token logits [rows, vocab]."""
        return self._programs["words"](self._no_ids, hidden_states)[1]

    def decoder(
        self,
        hidden_states: paddle.Tensor,
        layout: Layout,
        subnet: Subnet,
        pages: Mapping[int, LayerPages],
        taps: Mapping[int, Tap] | None = None,
    ) -> DecoderOutput:
        """As `Decoder`, over pages. What the layers keep is fixed, so `subnet` only has to be the whole."""
        loads: dict[int, np.ndarray] = {}
        found = {"residual": hidden_states}
        for name, layer_ids in self._layers.items():
            found = self._run(name, [found["residual"]], layout, [pages[i] for i in layer_ids])
            if "loads" in found:
                routing = [i for i in layer_ids if is_moe_layer(self.config, i)]
                loads |= zip(routing, found["loads"].numpy(), strict=True)
            if taps and layer_ids[-1] in taps:
                found["residual"] = taps[layer_ids[-1]](found["residual"])
        return DecoderOutput(found["hidden_states"], found["residual"], loads)

    def predict_second_next(
        self,
        residual: paddle.Tensor,
        next_embedded: paddle.Tensor,
        layout: Layout,
        subnet: Subnet,
        pages: LayerPages,
    ) -> BlockOutput:
        """As `Ernie5ForCausalLM.predict_second_next`, over pages."""
        found = self._run("prediction", [residual, next_embedded], layout, [pages])
        return BlockOutput(found["hidden_states"], None)

    def _embed_words(self, ids: paddle.Tensor) -> paddle.Tensor:
        """int64 [n] -> [n, hidden]."""
        return self._programs["words"](ids, self._no_states)[0]

    def _run(
        self, name: str, states: Sequence[paddle.Tensor], layout: Layout, pages: Sequence[LayerPages]
    ) -> dict[str, paddle.Tensor]:
        """The outputs of layers by name; their pages then have the new keys."""
        program, mask = self._programs[name], layout.mask
        if self.manifest.ops == "native":  # which writes them itself
            keys, values = [layer.keys for layer in pages], [layer.values for layer in pages]
            found = program(*states, *layout.rotation, *mask.rows, *keys, *values)
        else:
            sources, columns = mask.past_first()
            past = [tensor for layer in pages for tensor in layer.take(sources)]
            (*found,) = program(*states, *layout.rotation, paddle.to_tensor(columns), *past)
            new = found[len(found) - len(past) :]
            for place, layer in enumerate(pages):
                layer.put(mask.slots, *new[2 * place : 2 * place + 2])
        return dict(zip(self.manifest.parts[name]["outputs"], found, strict=False))


def _require_operators(manifest: Manifest) -> None:
    try:
        backend.choose("native")
    except UserError as error:
        raise UserError(
            f"{manifest.folder}: was exported with compiled operators: {error} (or export with --ops none)"
        ) from None
