"""Parameters of which several processes hold the same values: their gradients summed, their optimizer state shared.

ZeRO-1 (arXiv:1910.02054): of the processes that hold a parameter, `sharding` neighbours on the data axis are a cohort,
and one of them, its owner, keeps its optimizer state. Gradients are summed to the owner, the owner makes the step, the
others receive the new value. What travels is what a sum over all of them would send anyway.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor
from paddle.distributed.communication.group import Group

from ernie5.parallel.data_parallel import guarded
from ernie5.parallel.mesh import Mesh
from ernie5.parallel.topology import own_group

BUCKET = 16 * 2**20  # elements that travel at once: what is copied together stays small


class Replicas:
    """Parameters that the processes `ranks_of(rank)` all hold. All processes of the run make it together."""

    def __init__(self, parameters: Sequence[Tensor], mesh: Mesh, rank: int, ranks_of: Callable[[int], Sequence[int]]):
        def cohort_of(other: int) -> list[int]:
            return cohorts(ranks_of(other), mesh)[_index(cohorts(ranks_of(other), mesh), other)]

        def across_of(other: int) -> list[int]:
            found = cohorts(ranks_of(other), mesh)
            place = cohort_of(other).index(other)
            return [cohort[place] for cohort in found]

        self.parameters = [parameter for parameter in parameters if not parameter.stop_gradient]
        self._cohort, self._across = own_group(mesh, rank, cohort_of), own_group(mesh, rank, across_of)
        self._ranks, self._place = cohort_of(rank), cohort_of(rank).index(rank)
        self._is_first = across_of(rank)[0] == rank
        self._owners = balanced([one.size for one in self.parameters], len(self._ranks))
        self._own_sums: list[Tensor] = []

    @property
    def groups(self) -> list[Group]:
        """In which they exchange."""
        return [group for group in (self._cohort, self._across) if group is not None]

    def owned(self) -> list[Tensor]:
        """Those whose optimizer state is here."""
        return [one for one, owner in zip(self.parameters, self._owners, strict=True) if owner == self._place]

    def counted(self) -> list[Tensor]:
        """Those whose gradient this process alone counts in the global norm."""
        return self.owned() if self._is_first else []

    @paddle.no_grad()
    def sum_gradients(self) -> None:
        """The gradients of `owned` become the sums over all that hold them; the others' go. None stays None."""
        self._own_sums.clear()
        if self._cohort is None and self._across is None:
            return
        have = paddle.to_tensor(np.array([one.grad is not None for one in self.parameters], np.int64))
        for group in (self._cohort, self._across):
            if group is not None:
                guarded(lambda group=group: dist.all_reduce(have, group=group))
        reached = [one for one, count in zip(self._with_owners(), have.tolist(), strict=True) if count]
        for owner, bucket in buckets(reached):
            total = paddle.concat([_gradient(one).flatten() for one in bucket])
            self._own_sums.append(total.sum())  # a fortieth of the time that the concat takes
            if self._cohort is not None:
                guarded(lambda total=total, owner=owner: dist.reduce(total, self._ranks[owner], group=self._cohort))
            if owner != self._place:
                for one in bucket:
                    one.clear_gradient(False)  # by name, Paddle 3.3.1 takes no notice of it and leaves zeros
                continue
            if self._across is not None:
                guarded(lambda total=total: dist.all_reduce(total, group=self._across))
            for one, part in zip(bucket, paddle.split(total, [one.size for one in bucket]), strict=True):
                one.grad = part.reshape(one.shape)

    def own_were_finite(self) -> bool:
        """Whether the gradients of this process were, before `sum_gradients` made sums of them."""
        unsummed = [one.grad.sum() for one in self.parameters if one.grad is not None] if not self.groups else []
        return all(math.isfinite(float(total)) for total in [*self._own_sums, *unsummed])

    @paddle.no_grad()
    def share_updates(self) -> None:
        """Every process of the cohort gets what the owners have made of the parameters."""
        if self._cohort is None:
            return
        for owner, bucket in buckets(self._with_owners()):
            values = paddle.concat([one.flatten() for one in bucket])
            guarded(lambda values=values, owner=owner: dist.broadcast(values, self._ranks[owner], group=self._cohort))
            if owner != self._place:
                for one, part in zip(bucket, paddle.split(values, [one.size for one in bucket]), strict=True):
                    one.set_value(part.reshape(one.shape))

    def _with_owners(self) -> list[tuple[int, Tensor]]:
        return list(zip(self._owners, self.parameters, strict=True))


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


def balanced(sizes: Sequence[int], parts: int) -> list[int]:
    """The part of each of these sizes, so that the parts weigh about the same: the largest first, to the emptiest."""
    filled, owners = [0] * parts, [0] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        owners[i] = filled.index(min(filled))
        filled[owners[i]] += sizes[i]
    return owners


def _gradient(parameter: Tensor) -> Tensor:
    return parameter.grad if parameter.grad is not None else paddle.zeros_like(parameter)


def buckets(parameters: Iterable[tuple[int, Tensor]]) -> Iterable[tuple[int, list[Tensor]]]:
    """With the owner of each -> parameters of one owner and type, together of at most BUCKET elements, or one alone."""
    open_buckets: dict[tuple, list[Tensor]] = {}
    for owner, parameter in parameters:
        kind = owner, parameter.dtype
        bucket = open_buckets.setdefault(kind, [])
        if bucket and sum(other.size for other in bucket) + parameter.size > BUCKET:
            yield owner, bucket
            open_buckets[kind] = bucket = []
        bucket.append(parameter)
    for (owner, _), bucket in open_buckets.items():
        yield owner, bucket
