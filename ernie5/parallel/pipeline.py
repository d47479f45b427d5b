"""Pipeline parallelism: runs of layers on stages of processes, through which fleet's schedules send micro-batches
(1F1B, arXiv:2006.09503; interleaved, arXiv:2104.04473; report §5).

Piece i of the model lies on stage i mod stages. The first embeds, media too; the last has the final norm, the heads,
the layers that audio taps and the prediction block. Every stage has the batch, so that hidden states are all that
travels.
"""

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import paddle
from paddle import nn
from paddle.distributed import fleet
from paddle.distributed.fleet.base.topology import HybridCommunicateGroup
from paddle.distributed.fleet.meta_parallel import (
    PipelineLayer,
    PipelineParallel,
    PipelineParallelWithInterleave,
)

from ernie5.modality.batch import Batch
from ernie5.model.ernie5 import Ernie5ForCausalLM, Losses, Walk
from ernie5.model.subnet import Subnet
from ernie5.parallel.cutting import Elsewhere
from ernie5.parallel.mesh import Mesh

# Of what stands before and behind the layers, what neither the first nor the last piece leaves out is on both.
BEHIND = ("decoder.norm", "text.lm_head", "vision_generation.bit_head", "audio.norms", "audio.heads")
BEFORE = ("vision_understanding", "vision_generation.bit_embedding", "vision_generation.scale_embedding", "audio.voice")


class Task(NamedTuple):
    """A micro-batch, and what becomes of its losses."""

    batch: Batch
    objective: Callable[[Losses], paddle.Tensor]  # a scalar, whose gradient is wanted
    counts: bool = True  # towards the load of experts; False: others work, and this process has to be there


class Pipeline:
    """This process's pieces of the model, which it leaves without the others' layers."""

    def __init__(self, model: Ernie5ForCausalLM, mesh: Mesh, hcg: HybridCommunicateGroup, layer_counts: Sequence[int]):
        self._model, self._mesh, self._hcg = model, mesh, hcg
        self._stage, self._virtual = hcg.get_stage_id(), len(layer_counts) // mesh.pipeline
        ends = [sum(layer_counts[: i + 1]) for i in range(len(layer_counts))]
        self._layers = [range(end - count, end) for end, count in zip(ends, layer_counts, strict=True)]
        # The head may be the table itself, and the prediction block embeds what follows.
        self._embeds_twice = model.text.lm_head is None or model.mtp is not None
        self._drop_others()
        self._strategy = _strategy()
        self._schedules: dict[int, PipelineParallel] = {}
        pieces = [self._piece(place) for place in range(len(layer_counts))]
        with _fleet_quiet():
            self._layer = PipelineLayer(
                pieces,
                topology=hcg.topology(),
                loss_fn=lambda objective, _: objective,
                seg_method="layer:piece",
                num_virtual_pipeline_stages=self._virtual,
            )

    @property
    def is_first(self) -> bool:
        return self._stage == 0

    @property
    def is_last(self) -> bool:
        return self._stage == self._mesh.pipeline - 1

    def tied(self) -> list[tuple[str, paddle.Tensor]]:
        """Parameters by name that the first and the last stage both have."""
        prefixes = ["decoder.layers.", "mtp.", *BEFORE, *BEHIND]
        if not self._embeds_twice:
            prefixes.append("text.")
        named = self._model.named_parameters() if self.is_first or self.is_last else ()
        return [(name, one) for name, one in named if not name.startswith(tuple(prefixes))]

    def forward_backward(self, tasks: Sequence[Task], subnet: Subnet) -> dict[int, paddle.Tensor]:
        """Gradients of the sum of the objectives, added up; -> the loads of this process's layers that route."""
        self._begin(tasks, subnet)
        self._schedule(len(tasks)).forward_backward_pipeline(_Nothing(), None)
        return self._loads

    def forward(self, tasks: Sequence[Task], subnet: Subnet) -> None:
        """Gives the objectives the losses of next groups of tokens, on the last stage; batches are of one shape."""
        self._begin(tasks, subnet)
        schedule = self._schedule(len(tasks))
        schedule.eval_batch(_Nothing(), compute_loss=False)
        schedule._p2p_helper.clear_meta_cache()  # as it does itself behind a step: shapes may change

    @property
    def fewest_tasks(self) -> int:
        """That keep all stages at work; fleet interleaves no fewer."""
        return self._mesh.pipeline * (2 if self._virtual > 1 else 1)

    def _begin(self, tasks: Sequence[Task], subnet: Subnet) -> None:
        self._tasks, self._subnet, self._seen = tasks, subnet, [0] * len(self._layers)
        self._walks: dict[int, Walk] = {}
        self._loads: dict[int, paddle.Tensor] = {}

    def _piece(self, place: int) -> Callable[[paddle.Tensor], paddle.Tensor]:
        own = self._layers[place]

        def piece(hidden_states: paddle.Tensor) -> paddle.Tensor:
            number = self._seen[place]  # micro-batches come in order
            self._seen[place] += 1
            model, task = self._model, self._tasks[number]
            walk = self._walks[number] if number in self._walks else model.walk(task.batch)
            self._walks[number] = walk
            if place + self._mesh.pipeline >= len(self._layers):  # it does not come here again
                del self._walks[number]
            if place == 0:
                hidden_states = model.embed(task.batch)
            layer_ids = [layer_id for layer_id in self._subnet.layer_ids if layer_id in own]
            taps = {layer_id: tap for layer_id, tap in walk.taps.items() if layer_id in own}
            residual, loads = model.decoder.run(hidden_states, walk.layout, self._subnet, layer_ids, taps=taps)
            if place < len(self._layers) - 1:
                self._collect(task, loads)
                return residual if residual is not hidden_states else residual * 1.0
            decoded = model.decoder.read(residual, loads)
            if not paddle.is_grad_enabled():
                return task.objective(model.next_group_losses(decoded, task.batch, walk))
            losses = model.losses(decoded, task.batch, walk, self._subnet)
            self._collect(task, losses.tokens_per_expert)
            return task.objective(losses)

        return piece

    def _collect(self, task: Task, loads: dict[int, paddle.Tensor]) -> None:
        if not task.counts:
            return
        for layer_id, load in loads.items():
            self._loads[layer_id] = self._loads[layer_id] + load if layer_id in self._loads else load

    def _schedule(self, count: int) -> PipelineParallel:
        """Fleet's, for so many micro-batches."""
        if count not in self._schedules:
            kind = PipelineParallelWithInterleave if self._virtual > 1 else PipelineParallel
            self._strategy.pipeline_configs = _configs(count)
            self._schedules[count] = kind(self._layer, self._hcg, self._strategy)
        return self._schedules[count]

    def _drop_others(self) -> None:
        own = {layer_id for piece in self._layers[self._stage :: self._mesh.pipeline] for layer_id in piece}
        layers = self._model.decoder.layers
        for layer_id in range(len(layers)):
            if layer_id not in own:
                layers[layer_id] = Elsewhere()
        for names, is_kept in ((BEFORE, self.is_first), (BEHIND, self.is_last)):
            for name in names:
                if not is_kept:
                    _drop(self._model, name)
        if not self.is_last:
            self._model.mtp = None
        elif not self._embeds_twice:
            _drop(self._model, "text.embed_tokens")
        if not (self.is_first or self.is_last):
            for name in ("text", "vision_generation", "audio.code_embeddings"):
                _drop(self._model, name)


def _strategy() -> fleet.DistributedStrategy:
    """Losses are not divided, and shapes may change with every step."""
    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs["pp_configs"].delay_scale_loss = True
    strategy.hybrid_configs["pp_configs"].clear_every_step_cache = True
    return strategy


def _configs(count: int) -> dict:
    """Each process of a tensor group sends all of its states: they are of tokens of its own."""
    return {"accumulate_steps": count, "micro_batch_size": 1, "enable_partial_send_recv": False}


def _drop(model: nn.Layer, name: str) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        model = getattr(model, parent)
        if model is None:
            return
    if getattr(model, last, None) is not None:
        setattr(model, last, Elsewhere())


class _Nothing:
    """For fleet, which asks for the data of a micro-batch: the pieces know theirs."""

    def __iter__(self):
        return self

    def __next__(self) -> tuple[paddle.Tensor, paddle.Tensor]:
        return paddle.zeros([1]), paddle.zeros([1])


@contextlib.contextmanager
def _fleet_quiet():
    """Fleet warns that functions share no weights: what is tied is summed by `Replicas`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No shared comm will be constructed")
        yield
