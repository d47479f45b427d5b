"""An exported model in the place of `Ernie5ForCausalLM`: the same methods, run by Paddle Inference."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle

from ernie5.errors import UserError
from ernie5.inference.predictor.folder import Manifest, read_manifest
from ernie5.inference.predictor.layers import SeparatePrograms, StepProgram, run_layers
from ernie5.inference.predictor.program import Program
from ernie5.layers.layout import Layout
from ernie5.layers.pages import LayerPages
from ernie5.modality.audio import Tap
from ernie5.model.block import BlockOutput
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
        native = manifest.ops == "native"  # there the compiled operator keeps little on the way
        self._programs = {
            name: Program(
                manifest.folder / f"{name}.json", manifest.folder / part["weights"], part["inputs"], threads, not native
            )
            for name, part in manifest.parts.items()
        }
        layers = StepProgram if "step" in manifest.parts else SeparatePrograms
        self._layers = layers(manifest, self._programs, self.config, self.dtype)
        self.text = SimpleNamespace(embed=self._layers.embed)
        predicts = "prediction" in self._programs
        self.mtp = SimpleNamespace(layer_id=self.config.num_hidden_layers) if predicts else None
        self.audio = None

    def eval(self) -> "ExportedModel":
        """It is in no other mode."""
        return self

    def logits(self, hidden_states: paddle.Tensor) -> paddle.Tensor:
        """[rows, hidden] -> next-token logits [rows, vocab]."""
        return self._layers.logits(hidden_states)

    def read_words(
        self, ids: np.ndarray, layout: Layout, subnet: Subnet, pages: Mapping[int, LayerPages], asked: np.ndarray
    ) -> tuple[DecoderOutput, paddle.Tensor]:
        """As `Ernie5ForCausalLM.read_words`."""
        return self._layers.read_words(ids, layout, pages, asked)

    def decoder(
        self,
        hidden_states: paddle.Tensor,
        layout: Layout,
        subnet: Subnet,
        pages: Mapping[int, LayerPages],
        taps: Mapping[int, Tap] | None = None,
    ) -> DecoderOutput:
        """As `Decoder`, over pages. What the layers keep is fixed, so `subnet` only has to be the whole."""
        return self._layers.decoder(hidden_states, layout, pages, taps or {})

    def predict_second_next(
        self,
        residual: paddle.Tensor,
        next_embedded: paddle.Tensor,
        layout: Layout,
        subnet: Subnet,
        pages: LayerPages,
    ) -> BlockOutput:
        """As `Ernie5ForCausalLM.predict_second_next`, over pages."""
        program, part = self._programs["prediction"], self.manifest.parts["prediction"]
        found = run_layers(program, part, self.manifest.ops, [residual, next_embedded], layout, [pages])
        return BlockOutput(found["hidden_states"], None)


def _require_operators(manifest: Manifest) -> None:
    try:
        backend.choose("native")
    except UserError as error:
        raise UserError(
            f"{manifest.folder}: was exported with compiled operators: {error} (or export with --ops none)"
        ) from None
