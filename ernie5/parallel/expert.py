"""Spreads the routed experts of a model over processes, and brings them together where one has to have them all."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn

from ernie5.layers.dispatcher import LocalDispatcher
from ernie5.layers.experts import Experts
from ernie5.layers.moe import MoE
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.parallel.data_parallel import Ranks
from ernie5.parallel.expert_dispatcher import ExpertParallelDispatcher
from ernie5.parallel.mesh import Mesh


class SpreadExperts:
    """The experts of a model, of which this process has one of `mesh.expert` equal runs, with their optimizer state.

    What is the first process's alone (evaluation, samples, checkpoints) works on the `whole` model, which `gather`
    brings to it: a checkpoint is the same under any layout.
    """

    def __init__(self, model: Ernie5ForCausalLM, ranks: Ranks, mesh: Mesh):
        self._model, self._ranks, self._degree = model, ranks, mesh.expert
        self._place = ranks.rank % mesh.expert
        self.group = _own_group(mesh, mesh.experts, ranks.rank)
        self.replicas = _own_group(mesh, mesh.expert_replicas, ranks.rank) if mesh.processes > mesh.expert else None
        self._layers = {name: layer for name, layer in model.named_sublayers() if isinstance(layer, MoE)}
        self._whole: dict[str, dict[str, paddle.Tensor]] = {}
        self.optimizer_tensors: dict[str, paddle.Tensor] = {}  # of the whole model, after `gather`
        for layer in self._layers.values():
            layer.dispatcher = ExpertParallelDispatcher(layer.dispatcher.num_experts, self.group)
            for name, parameter in list(layer.experts.named_parameters()):
                _put(layer.experts, name, self._own_run(parameter.numpy()), parameter.dtype)

    def parameters(self) -> list[paddle.Tensor]:
        """Of this process's experts."""
        return [one for layer in self._layers.values() for one in layer.experts.parameters()]

    def own(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Tensors of a whole model, or of its optimizer, with those of the experts cut to this process's."""
        return {name: self._own_run(array) if self._is_cut(name, array) else array for name, array in tensors.items()}

    def gather(self, optimizer_tensors: Mapping[str, paddle.Tensor]) -> None:
        """All processes call it: the first one gets everybody's experts and their optimizer state."""
        self._whole = {
            name: {key: self._gathered(one) for key, one in layer.experts.named_parameters()}
            for name, layer in self._layers.items()
        }
        self.optimizer_tensors = {
            name: self._gathered(one) if self._is_cut(name, one) else one for name, one in optimizer_tensors.items()
        }

    @contextmanager
    def whole(self) -> Iterator[None]:
        """On the first process, after `gather`: the model has all experts while the block runs."""
        held = {name: (layer.dispatcher, dict(layer.experts.named_parameters())) for name, layer in self._each()}
        try:
            for name, layer in self._each():
                layer.dispatcher = LocalDispatcher(layer.dispatcher.num_local * self._degree)
                for key, tensor in self._whole[name].items():
                    _put(layer.experts, key, tensor.numpy(), tensor.dtype)
            yield
        finally:
            for name, layer in self._each():
                layer.dispatcher, parameters = held[name]
                for key, parameter in parameters.items():
                    setattr(layer.experts, key, parameter)
            self._whole, self.optimizer_tensors = {}, {}

    def _each(self) -> list[tuple[str, MoE]]:
        return list(self._layers.items())

    def _own_run(self, array: np.ndarray) -> np.ndarray:
        return np.array_split(array, self._degree)[self._place]

    def _is_cut(self, name: str, tensor: np.ndarray | paddle.Tensor) -> bool:
        """Whether a tensor, or an optimizer's state, has a row for each expert: powers of the betas have not."""
        layer = next((layer for key, layer in self._layers.items() if name.startswith(f"{key}.experts.")), None)
        return layer is not None and len(tensor.shape) > 1

    def _gathered(self, tensor: paddle.Tensor) -> paddle.Tensor | None:
        """On the first process all runs behind each other; the processes beyond its own group have nothing to give."""
        if 0 not in self.group.ranks:
            return None
        parts: list[paddle.Tensor] = []
        dist.gather(tensor.detach(), parts if self._ranks.is_first else None, dst=0, group=self.group)
        return paddle.concat(parts) if self._ranks.is_first else None


def _own_group(mesh: Mesh, ranks_of: Callable[[int], list[int]], rank: int):
    """Every process takes part in making every group, and keeps its own."""
    lists = sorted({tuple(ranks_of(other)) for other in range(mesh.processes)})
    groups = [dist.new_group(list(ranks)) for ranks in lists]
    return next(group for group, ranks in zip(groups, lists, strict=True) if rank in ranks)


def _put(experts: Experts, name: str, values: np.ndarray, dtype: paddle.dtype) -> None:
    """Values as a parameter in the place of another."""
    parameter = experts.create_parameter(
        list(values.shape), dtype=dtype, default_initializer=nn.initializer.Constant(0)
    )
    parameter.set_value(values)
    setattr(experts, name, parameter)
