"""Parameters of which several processes hold the same values: their gradients summed, their optimizer state shared.

ZeRO-1 (arXiv:1910.02054): of the processes that hold parameters, `sharding` neighbours on the data axis are a cohort,
and each of them owns an even share of the elements, whose optimizer state it keeps. Gradients are summed to the owner,
the owner makes the step, the others receive the new values. What travels is what a sum over all of them would send
anyway.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor
from paddle.distributed.communication.group import Group

from ernie5.parallel.data_parallel import guarded
from ernie5.parallel.mesh import Mesh
from ernie5.parallel.runs import Run, elements, lies_in, run_parameter, shares
from ernie5.parallel.topology import own_group

BUCKET = 16 * 2**20  # elements that travel at once: what is copied together stays small


class Part(NamedTuple):
    """Elements of a parameter that one member of the cohort owns."""

    name: str
    parameter: Tensor
    run: Run
    owner: int

    @property
    def is_whole(self) -> bool:
        return self.run.size == self.parameter.size

    def flat(self, tensor: Tensor) -> Tensor:
        """These elements of the parameter, or of its gradient, in their own memory."""
        return elements(tensor, self.run.start, self.run.stop)

    def gradient(self) -> Tensor:
        """Theirs, [size]; zeros where there is none."""
        if self.parameter.grad is None:
            return paddle.zeros([self.run.size], self.parameter.dtype)
        return self.flat(self.parameter.grad.contiguous())


class Replicas:
    """Parameters that the processes `ranks_of(rank)` all hold. All processes of the run make it together.

    runs: by its name, which run of a parameter is owned, where it is not all of it.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], mesh: Mesh, rank: int, ranks_of: Callable[[int], Sequence[int]]
    ):
        def cohort_of(other: int) -> list[int]:
            return cohorts(ranks_of(other), mesh)[_index(cohorts(ranks_of(other), mesh), other)]

        def across_of(other: int) -> list[int]:
            found = cohorts(ranks_of(other), mesh)
            place = cohort_of(other).index(other)
            return [cohort[place] for cohort in found]

        self._cohort, self._across = own_group(mesh, rank, cohort_of), own_group(mesh, rank, across_of)
        self._ranks, self._place = cohort_of(rank), cohort_of(rank).index(rank)
        self._is_first = across_of(rank)[0] == rank
        self._parameters = {name: one for name, one in parameters.items() if not one.stop_gradient}
        self._parts = parts_of(self._parameters, len(self._ranks))
        self.runs = {part.name: part.run for part in self._owned() if not part.is_whole}
        self._own_sums: list[Tensor] = []

    @cached_property
    def stepped(self) -> dict[str, Tensor]:
        """What the optimizer of this process steps, by the name of its parameter: the parameter, or a run of it in its
        memory, which it must have by now, and keep."""
        return {
            part.name: part.parameter if part.is_whole else run_parameter(part.parameter, part.run)
            for part in self._owned()
        }

    @property
    def groups(self) -> list[Group]:
        """In which they exchange."""
        return [group for group in (self._cohort, self._across) if group is not None]

    def counted(self) -> list[Tensor]:
        """Those of `stepped` whose gradient this process alone counts in the global norm."""
        return list(self.stepped.values()) if self._is_first else []

    @paddle.no_grad()
    def sum_gradients(self) -> None:
        """The gradients of `stepped` become the sums over all that hold them; the others' go. None stays None."""
        self._own_sums.clear()
        if self._cohort is None and self._across is None:
            return
        assert all(lies_in(self.stepped[name], self._parameters[name], run) for name, run in self.runs.items())
        have = paddle.to_tensor(np.array([one.grad is not None for one in self._parameters.values()], np.int64))
        for group in self.groups:
            guarded(lambda group=group: dist.all_reduce(have, group=group))
        reached = {name for name, count in zip(self._parameters, have.tolist(), strict=True) if count}
        for owner, bucket in buckets(part for part in self._parts if part.name in reached):
            total = paddle.concat([part.gradient() for part in bucket])
            self._own_sums.append(total.sum())  # a fortieth of the time that the concat takes
            if self._cohort is not None:
                guarded(lambda total=total, owner=owner: dist.reduce(total, self._ranks[owner], group=self._cohort))
            if owner != self._place:
                for part in bucket:
                    if part.is_whole:
                        _clear(part.parameter)
                continue
            if self._across is not None:
                guarded(lambda total=total: dist.all_reduce(total, group=self._across))
            for part, summed in zip(bucket, _split(total, bucket), strict=True):
                stepped = self.stepped[part.name]
                stepped.grad = summed.reshape(stepped.shape)
        for part in self._parts:
            if not part.is_whole:  # what is owned of it has a gradient of its own
                _clear(part.parameter)

    def own_were_finite(self) -> bool:
        """Whether the gradients of this process were, before `sum_gradients` made sums of them."""
        own = [] if self.groups else [one.grad.sum() for one in self._parameters.values() if one.grad is not None]
        return all(math.isfinite(float(total)) for total in [*self._own_sums, *own])

    @paddle.no_grad()
    def share_updates(self) -> None:
        """Every process of the cohort gets what the owners have made of the parameters."""
        if self._cohort is None:
            return
        for owner, bucket in buckets(self._parts):
            values = paddle.concat([part.flat(part.parameter) for part in bucket])
            guarded(lambda values=values, owner=owner: dist.broadcast(values, self._ranks[owner], group=self._cohort))
            if owner != self._place:
                for part, new in zip(bucket, _split(values, bucket), strict=True):
                    part.flat(part.parameter).set_value(new)
            for part in bucket:
                part.parameter._bump_inplace_version()  # the autograd engine sees no change of a part

    def _owned(self) -> list[Part]:
        return [part for part in self._parts if part.owner == self._place]


def parts_of(parameters: Mapping[str, Tensor], owners: int) -> list[Part]:
    """Even parts of parameters, in their order."""
    named = list(parameters.items())
    dealt = shares([one.size for _, one in named], owners)
    return [
        Part(*named[index], Run(tuple(named[index][1].shape), start, stop), owner)
        for index, start, stop, owner in dealt
    ]


def cohorts(ranks: Sequence[int], mesh: Mesh) -> list[list[int]]:
    """Those of `ranks` who stand together in a run of `sharding` on the data axis; each alone if runs differ."""
    runs: dict[tuple, list[int]] = {}
    for rank in ranks:
        place = mesh.place(rank)
        runs.setdefault((place.pipeline, place.data // mesh.sharding, place.context, place.tensor), []).append(rank)
    found = list(runs.values())
    return found if len({len(run) for run in found}) == 1 else [[rank] for rank in ranks]


def _index(lists: Sequence[Sequence[int]], rank: int) -> int:
    return next(i for i, ranks in enumerate(lists) if rank in ranks)


def _clear(parameter: Tensor) -> None:
    parameter.clear_gradient(False)  # by name, Paddle 3.3.1 takes no notice of it and leaves zeros


def _split(tensor: Tensor, bucket: Sequence[Part]) -> list[Tensor]:
    return paddle.split(tensor, [part.run.size for part in bucket])


def buckets(parts: Iterable[Part]) -> Iterable[tuple[int, list[Part]]]:
    """-> owner, and parts that are its own, of one type, together of at most BUCKET elements, or one alone."""
    open_buckets: dict[tuple, list[Part]] = {}
    for part in parts:
        kind = part.owner, part.parameter.dtype
        bucket = open_buckets.setdefault(kind, [])
        if bucket and sum(other.run.size for other in bucket) + part.run.size > BUCKET:
            yield part.owner, bucket
            open_buckets[kind] = bucket = []
        bucket.append(part)
    for (owner, _), bucket in open_buckets.items():
        yield owner, bucket
