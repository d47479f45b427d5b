"""How the processes of a run share its model: arithmetic of ranks, nothing is exchanged."""

from dataclasses import dataclass

from ernie5.config.schema import ParallelConfig
from ernie5.errors import UserError


@dataclass(frozen=True)
class Mesh:
    """So many processes, and which of them belong together."""

    processes: int
    expert: int  # processes over which the experts are spread

    def expert_groups(self) -> list[list[int]]:
        """Neighbours, who have all experts together."""
        return [list(range(first, first + self.expert)) for first in range(0, self.processes, self.expert)]

    def expert_replicas(self) -> list[list[int]]:
        """Those who have the same experts."""
        return [list(range(place, self.processes, self.expert)) for place in range(self.expert)]


def make_mesh(processes: int, config: ParallelConfig) -> Mesh:
    """UserError for degrees that do not fit the number of processes, with those that would."""
    if processes % config.expert:
        fitting = [degree for degree in range(1, processes + 1) if processes % degree == 0]
        raise UserError(
            f"parallel.expert is {config.expert}, which does not divide the {processes} processes of this run: set it "
            f"to one of {', '.join(map(str, fitting))}, or start another number of processes"
        )
    return Mesh(processes, config.expert)
