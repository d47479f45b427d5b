"""A model on the processes of a run: who has which part of it, which tokens, and what they exchange in a step.

The one written order: stages of layers, experts, matrices, rows; then who shares what is left. The layers know nothing
of it, and on one process nothing of it happens.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import paddle
from paddle import Tensor

from ernie5.modality.batch import Batch
from ernie5.modality.unified import UnifiedSequence
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet
from ernie5.parallel.context import ContextParallelAttention
from ernie5.parallel.data_parallel import ALONE, Ranks
from ernie5.parallel.expert import spread_experts
from ernie5.parallel.expert_dispatcher import ExpertParallelDispatcher
from ernie5.parallel.mesh import Mesh
from ernie5.parallel.pieces import WHOLE, Cut
from ernie5.parallel.pipeline import Pipeline, Task
from ernie5.parallel.replicas import Replicas
from ernie5.parallel.tensor import cut_matrices
from ernie5.parallel.tokens import TokenShare
from ernie5.parallel.topology import expert_group, join_fleet, own_group


class ParallelModel:
    """This process's part of a model. All processes of the run make it, and call its methods, together."""

    def __init__(
        self,
        model: Ernie5ForCausalLM,
        ranks: Ranks,
        mesh: Mesh,
        layer_counts: Sequence[int],
        dispatcher: type[ExpertParallelDispatcher] = ExpertParallelDispatcher,
    ):
        """The whole model, drawn or not, loses what others have.

        layer_counts: layers of each of the pieces that stages hold; dispatcher: what brings tokens to spread experts.
        """
        self.model, self.ranks, self.mesh, self._place = model, ranks, mesh, mesh.place(ranks.rank)
        self.cuts: dict[str, Cut] = {}  # of parameters of which this process has a piece
        self._pipeline, self._share_tokens = None, TokenShare(mesh, ranks.rank)
        self._stage_group = own_group(mesh, ranks.rank, mesh.stage) if mesh.pipeline > 1 else None
        # of all stages, who have the same rows: None where no other process has them
        self.row_group = own_group(mesh, ranks.rank, lambda rank: mesh.group(rank, "pipeline", "context", "tensor"))
        hcg = join_fleet(mesh) if mesh.is_model_shared else None
        if mesh.pipeline > 1:
            self._pipeline = Pipeline(model, mesh, hcg, layer_counts)
        if mesh.expert > 1:
            self.cuts |= spread_experts(model, expert_group(mesh, ranks.rank, hcg), dispatcher)
        if mesh.tensor > 1:
            self.cuts |= cut_matrices(model, hcg.get_model_parallel_group())
        if mesh.context > 1:
            attend = ContextParallelAttention(own_group(mesh, ranks.rank, lambda rank: mesh.group(rank, "context")))
            for block in model.blocks().values():
                block.self_attn.attend = attend
        self.replicas = list(self._shared_parameters())
        runs = {name: run for replicas in self.replicas for name, run in replicas.runs.items()}
        # Where what is `stepped` lies in whole parameters.
        self.stepped_cuts = self.cuts | {
            name: self.cuts.get(name, WHOLE)._replace(run=run) for name, run in runs.items()
        }

    @cached_property
    def stepped(self) -> dict[str, Tensor]:
        """What the optimizer of this process steps, by the name of its parameter: the parameter, or a run of it. The
        model is drawn when this is asked for."""
        of_kinds = {name: one for replicas in self.replicas for name, one in replicas.stepped.items()}
        return {name: of_kinds[name] for name, _ in self.model.named_parameters() if name in of_kinds}

    def counted(self) -> list[Tensor]:
        """Those of `stepped` whose gradient this process alone counts in the global norm."""
        return [one for replicas in self.replicas for one in replicas.counted()]

    def share(self, rows: UnifiedSequence) -> UnifiedSequence:
        """This process's part of stacked rows [batch, seq], which its stage's tensor and context groups share."""
        return share_rows(rows, self._place.data, self.mesh.data)

    @property
    def rows_at_once(self) -> int:
        """Times the rows of a micro-batch: those that a forward pass of all processes takes, none of them idle."""
        passes = self._pipeline.fewest_tasks if self._pipeline is not None else 1
        return passes * self.mesh.data

    def most_rows(self, rows: UnifiedSequence) -> int:
        """That any process has of them."""
        return -(-len(rows.input_ids) // self.mesh.data)

    def share_tokens(self, batch: Batch) -> Batch:
        """This process's tokens of its rows."""
        return self._share_tokens.of(batch)

    def share_places(self, values: np.ndarray) -> np.ndarray:
        """Of values [rows, seq] of its rows those of its tokens, [rows, own]."""
        return values[:, self._share_tokens.own(values.shape[1])]

    def forward_backward(self, tasks: Sequence[Task], subnet: Subnet) -> list[dict[int, Tensor]]:
        """Adds up the gradients of the tasks' objectives -> loads by layer id of those that route, of this process."""
        if self._pipeline is not None:
            return [self._pipeline.forward_backward(tasks, subnet)]
        loads = []
        for task in tasks:
            losses = self.model(task.batch, subnet)
            objective = task.objective(losses)
            if not objective.stop_gradient:
                objective.backward()
            if task.counts:
                loads.append(losses.tokens_per_expert)
        return loads

    @paddle.no_grad()
    def forward(self, tasks: Sequence[Task], subnet: Subnet) -> None:
        """Gives the tasks' objectives the losses of next groups of tokens, where this process makes any."""
        if self._pipeline is not None:
            self._pipeline.forward(tasks, subnet)
            return
        for task in tasks:
            task.objective(self.model.validation_losses(task.batch, subnet))

    def summed_over_tokens(self, values: np.ndarray) -> np.ndarray:
        """The sum over the processes that have the tokens of a step between them, each once."""
        if self._stage_group is None and self.mesh.pipeline > 1:
            return values  # a stage is one process
        return self.ranks.summed(values, self._stage_group)

    def sum_gradients(self) -> None:
        """Every gradient of `stepped` becomes the sum over all that hold the parameter."""
        for replicas in self.replicas:
            replicas.sum_gradients()

    def makers_of_not_finite(self) -> list[int]:
        """The processes in whose gradients there was a NaN or an infinity, before they were summed the last time."""
        said = self.ranks.gathered(str(all(replicas.own_were_finite() for replicas in self.replicas)))
        return [rank for rank, text in enumerate(said) if text == str(False)]

    def share_updates(self) -> None:
        """Every process gets what the optimizers of others have made of its parameters."""
        for replicas in self.replicas:
            replicas.share_updates()

    def _shared_parameters(self):
        """By who holds the same: both ends of the pipeline, the replicas of a piece, of an expert, or the stage."""
        mesh, rank = self.mesh, self.ranks.rank
        tied = dict(self._pipeline.tied()) if self._pipeline is not None else {}
        kinds: dict[str, dict[str, Tensor]] = {"tied": {}, "cut": {}, "expert": {}, "stage": {}}
        for name, parameter in self.model.named_parameters():
            if name in tied:
                kind = "tied"
            elif ".experts." in name:
                kind = "expert"
            else:
                kind = "cut" if name in self.cuts else "stage"
            kinds[kind][name] = parameter
        ranks_of: dict[str, Callable[[int], Sequence[int]]] = {
            "tied": self._both_ends,
            "cut": lambda other: mesh.group(other, "data", "context"),
            "expert": mesh.expert_replicas,
            "stage": mesh.stage,
        }
        for kind, parameters in kinds.items():
            yield Replicas(parameters, mesh, rank, ranks_of[kind])

    def _both_ends(self, rank: int) -> list[int]:
        """The processes of the first and the last stage; of any other, those of its own, which tie nothing."""
        mesh = self.mesh
        if 0 < mesh.place(rank).pipeline < mesh.pipeline - 1 or mesh.pipeline == 1:
            return mesh.stage(rank)
        return sorted({*mesh.stage(0), *mesh.stage(mesh.processes - 1)})


def share_rows(rows: UnifiedSequence, part: int, parts: int) -> UnifiedSequence:
    """Of stacked rows [batch, seq] one of `parts` runs of neighbours, of even numbers."""
    count = len(rows.input_ids)
    return rows.part(count * part // parts, count * (part + 1) // parts)


def alone(model: Ernie5ForCausalLM) -> ParallelModel:
    """A model that one process has to itself."""
    return ParallelModel(model, ALONE, Mesh(), [model.config.num_hidden_layers])
