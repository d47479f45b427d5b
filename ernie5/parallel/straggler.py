"""Finds processes that work longer on steps than the others do: a hot processor, a neighbour's job, a slow disk.

Compared is each one's own work: the seconds of its steps without those it waited for others, or all would look as slow
as the slowest. Waiting is known where `gloo.py` does the talking. On a GPU it is not: what a step waits for in NCCL
looks like work, all steps take equally long, and nobody is named.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ernie5.parallel.data_parallel import Ranks
from ernie5.parallel.gloo import seconds_waited

FACTOR = 1.5  # of the median, from which a process counts as slow
IN_A_ROW = 10  # comparisons


class Slow(NamedTuple):
    """A process that has become slow."""

    rank: int
    ratio: float  # of its seconds to the median, in the last comparison

    def __str__(self) -> str:
        return f"process {self.rank} is slow: its own work takes {self.ratio:.1f} times the median of all processes"


class Comparison:
    """Who has been slow for `in_a_row` comparisons; each is named once, and again only after it was not slow."""

    def __init__(self, factor: float = FACTOR, in_a_row: int = IN_A_ROW):
        self._factor, self._in_a_row = factor, in_a_row
        self._times: dict[int, int] = {}  # that a process has been slow, without a break

    def add(self, seconds: Sequence[float]) -> list[Slow]:
        """`seconds`: of each process. The lower median: of two processes, the faster one is what is usual."""
        usual = statistics.median_low(seconds)
        slow = [rank for rank, own in enumerate(seconds) if own > self._factor * usual]
        self._times = {rank: self._times.get(rank, 0) + 1 for rank in slow}
        named = [rank for rank in slow if self._times[rank] == self._in_a_row]
        return [Slow(rank, seconds[rank] / usual if usual else float("inf")) for rank in named]


class Stragglers:
    """Compares the processes of a run after every `every` steps (0: never); one number of each is exchanged."""

    def __init__(self, ranks: Ranks, every: int, waited: Callable[[], float] = seconds_waited):
        self._ranks, self._waited = ranks, waited
        self._every = every if ranks.size > 1 else 0
        self._comparison = Comparison()
        self._work, self._start = 0.0, 0.0

    def begin_step(self) -> None:
        self._start = self._waited()

    def end_step(self, step: int, seconds: float) -> list[Slow]:
        """To be called by all processes after a step that took `seconds`; on all, those that have become slow."""
        self._work += seconds - (self._waited() - self._start)
        if not self._every or step % self._every:
            return []
        own = np.zeros(self._ranks.size)
        own[self._ranks.rank], self._work = self._work, 0.0
        return self._comparison.add(self._ranks.summed(own).tolist())
