"""A part of a model as a program: a layer, what goes into it, and an example of that."""

import contextlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from ernie5.errors import Fault
from ernie5.inference.predictor.program import Program
from ernie5.inference.predictor.program_ops import operators_in, refuse_unknown

TOLERANCE = 1e-4  # of a program's outputs, over the largest of the layer's, or over 1 if that is less


@dataclass(frozen=True)
class Part:
    """`layer` takes the tensors of `inputs`, of which the last may be a list, and gives a tensor or a list of them."""

    name: str
    layer: nn.Layer
    inputs: Sequence[InputSpec | list[InputSpec]]
    outputs: Sequence[str]  # names of the first ones; others are keys, values or memories, in order
    example: Sequence[Any]  # arrays as `inputs`, with which the written program is tried
    shares: str = ""  # name of the part that has the same weights, and so the file of them
    extra: dict[str, Any] = field(default_factory=dict)  # goes into `export.json`

    @property
    def flat_inputs(self) -> list[InputSpec]:
        return [one for spec in self.inputs for one in (spec if isinstance(spec, list) else [spec])]

    def tensors(self) -> list[Any]:
        """The example as the layer takes it, in the dtypes of `inputs`."""
        return [_tensors(*pair) for pair in zip(self.example, self.inputs, strict=True)]

    def flat_tensors(self) -> list[paddle.Tensor]:
        """The example as the program takes it."""
        return [one for tensor in self.tensors() for one in (tensor if isinstance(tensor, list) else [tensor])]

    def described(self) -> dict[str, Any]:
        """What `export.json` says of it."""
        weights = f"{self.shares or self.name}.pdiparams"
        inputs = [[spec.name, str(spec.dtype).split(".")[-1].lower(), list(spec.shape)] for spec in self.flat_inputs]
        inputs = [[name, dtype, [-1 if size is None else size for size in shape]] for name, dtype, shape in inputs]
        return {"weights": weights, "inputs": inputs, "outputs": list(self.outputs), **self.extra}


def write_part(part: Part, folder: Path) -> None:
    """Writes `NAME.json` and `NAME.pdiparams`, and runs them on the example.

    Fault if the program says something else than the layer, or has an operator that the loader refuses.
    """
    part.layer.eval()
    path = folder / part.name
    with _plainly(), paddle.no_grad():
        expected = part.layer(*part.tensors())  # of copies: an operator may write into its inputs
        static = paddle.jit.to_static(part.layer, full_graph=True, input_spec=list(part.inputs))
        paddle.jit.save(static, str(path))
    weights = path.with_suffix(".pdiparams")
    if not weights.exists():  # a part without any
        weights.touch()
    if part.shares:
        _share(weights, folder / f"{part.shares}.pdiparams")
        weights = folder / f"{part.shares}.pdiparams"
    refuse_unknown(operators_in(json.loads(path.with_suffix(".json").read_text())), path.with_suffix(".json"))
    _try(part, path.with_suffix(".json"), weights, expected if isinstance(expected, list | tuple) else [expected])


def _try(part: Part, program: Path, weights: Path, expected: Sequence[paddle.Tensor]) -> None:
    found = Program(program, weights, part.described()["inputs"])(*part.flat_tensors())
    shapes = [list(one.shape) for one in found], [list(one.shape) for one in expected]
    if shapes[0] != shapes[1]:
        raise Fault(f"{program}: gives {shapes[0]} where the layer gives {shapes[1]}: Paddle has written it wrong")
    for number, pair in enumerate(zip(found, expected, strict=True)):
        one, other = (tensor.astype("float32").numpy() for tensor in pair)
        if not one.size:
            continue
        error, allowed = np.abs(one - other).max(), TOLERANCE * max(1.0, np.abs(other).max())
        if pair[0].dtype != pair[1].dtype or not error <= allowed:
            raise Fault(
                f"{program}: output {number} is off by {error:.2g} ({pair[0].dtype} for {pair[1].dtype}), more than "
                f"{allowed:.2g}: Paddle has written it wrong"
            )


def _share(own: Path, other: Path) -> None:
    """Leaves out a file of weights that is the same as another one."""
    if own.read_bytes() != other.read_bytes():
        raise Fault(f"{own}: is not the same as {other}, though the weights are")
    own.unlink()


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """No casts of mixed precision, which would be written into the program even where the layer makes none (CPU)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Paddle, on its own way of tracing
        with paddle.amp.auto_cast(enable=False):
            yield


def _tensors(value: Any, spec: Any) -> Any:
    if isinstance(value, list):
        return [_tensors(*pair) for pair in zip(value, spec, strict=True)]
    return paddle.to_tensor(value).astype(spec.dtype)
