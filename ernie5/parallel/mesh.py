"""How the processes of a run share its model: arithmetic of ranks, nothing is exchanged."""

from dataclasses import dataclass
from typing import NamedTuple

from ernie5.config.schema import ParallelConfig
from ernie5.errors import UserError


class Place(NamedTuple):
    """Where a process stands on each axis."""

    pipeline: int
    data: int
    context: int
    tensor: int


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Processes = pipeline x data x context x tensor, numbered with tensor fastest: who talks most are neighbours.

    The experts of a stage lie on all of its data x context x tensor processes, in runs of `expert` neighbours that have
    all of them together; every process of a stage has tokens of its own. `sharding` neighbours on the data axis share
    the optimizer state of what they all have.
    """

    pipeline: int = 1
    data: int = 1
    context: int = 1
    tensor: int = 1
    expert: int = 1
    sharding: int = 1

    @property
    def processes(self) -> int:
        return self.pipeline * self.stage_size

    @property
    def stage_size(self) -> int:
        """Processes of a pipeline stage."""
        return self.data * self.context * self.tensor

    @property
    def is_model_shared(self) -> bool:
        """Whether processes have different parts of the model, or of a row."""
        return max(self.pipeline, self.context, self.tensor, self.expert) > 1

    @property
    def is_divided(self) -> bool:
        """Whether no process has all of the model and of its optimizer's state."""
        return max(self.pipeline, self.tensor, self.expert, self.sharding) > 1

    def place(self, rank: int) -> Place:
        rest, tensor = divmod(rank, self.tensor)
        rest, context = divmod(rest, self.context)
        pipeline, data = divmod(rest, self.data)
        return Place(pipeline, data, context, tensor)

    def group(self, rank: int, *axes: str) -> list[int]:
        """The processes that stand where this one does on all other axes, ascending."""
        place = self.place(rank)
        fixed = [axis for axis in Place._fields if axis not in axes]
        ranks = ((other, self.place(other)) for other in range(self.processes))
        return [other for other, at in ranks if all(getattr(at, axis) == getattr(place, axis) for axis in fixed)]

    def stage(self, rank: int) -> list[int]:
        """All processes of this one's pipeline stage."""
        return self.group(rank, "data", "context", "tensor")

    def experts(self, rank: int) -> list[int]:
        """The neighbours who have all experts together."""
        first = rank - rank % self.expert
        return list(range(first, first + self.expert))

    def expert_replicas(self, rank: int) -> list[int]:
        """Those of the stage who have the same experts."""
        first = rank - rank % self.stage_size
        return list(range(first + rank % self.expert, first + self.stage_size, self.expert))


def make_mesh(processes: int, config: ParallelConfig) -> Mesh:
    """UserError for degrees that do not fit the number of processes, with those that would."""
    shared = config.pipeline * config.context * config.tensor
    if processes % shared:
        degrees = {name: getattr(config, name) for name in ("pipeline", "context", "tensor")}
        factors = [f"{name} {degree}" for name, degree in degrees.items() if degree > 1]
        product = " x ".join(factors) + (f" is {shared} and" if len(factors) > 1 else "")
        raise UserError(
            f"parallel: {product} does not divide the {processes} processes of this run: start a multiple of {shared}, "
            f"or change degrees so that their product is one of {_listed(processes)}"
        )
    data = processes // shared
    stage = processes // config.pipeline
    if stage % config.expert:
        raise UserError(
            f"parallel.expert is {config.expert}, which does not divide the {stage} processes of "
            f"{'a pipeline stage' if config.pipeline > 1 else 'this run'}: set it to one of {_listed(stage)}, or start "
            "another number of processes"
        )
    if data % config.sharding:
        raise UserError(
            f"parallel.sharding is {config.sharding}, which does not divide the {data} processes of the data axis: "
            f"set it to one of {_listed(data)}"
        )
    return Mesh(
        pipeline=config.pipeline,
        data=data,
        context=config.context,
        tensor=config.tensor,
        expert=config.expert,
        sharding=config.sharding,
    )


def _listed(number: int) -> str:
    return ", ".join(str(degree) for degree in range(1, number + 1) if number % degree == 0)
