"""Expert parallelism: every process of a group holds some of the experts, and tokens travel to theirs and back.

A token's row goes at most once to each process that has any of its experts; there it meets all of them, and the sum of
their answers comes back as one row. Counts travel first, so that nothing is padded and no token is dropped.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import paddle
import paddle.distributed as dist
from paddle.autograd import PyLayer

from ernie5.layers.experts import Experts
from ernie5.ops.moe import Permutation, moe_permute, moe_unpermute, sort_by_expert
from ernie5.ops.router import Routing


class Travel(NamedTuple):
    """The way of one dispatch's rows, which `combine` takes back."""

    leaving: Permutation  # of this process's tokens into rows by process
    sent: list[int]  # rows to each process
    received: list[int]  # rows from each


class Waits(Protocol):
    """What a journey is waited for with."""

    def wait(self) -> object: ...


class Dispatched(NamedTuple):
    rows: paddle.Tensor  # [rows, hidden], grouped by this process's experts
    row_weights: paddle.Tensor  # float32 [rows]
    permutation: Permutation  # of the rows that have arrived
    travel: object  # as in `OnTheWay`


class OnTheWay(NamedTuple):
    """Rows that travel to this process's experts. Nothing else may travel in the group before they have `arrived`."""

    rows: paddle.Tensor  # [received, hidden]: to be filled
    tasks: list[Waits]
    weights: paddle.Tensor  # float32 [received, top_k]; 0 for choices of other processes' experts
    ids: paddle.Tensor  # int64 [received, top_k]: this process's experts, their number for those of others
    travel: object  # what the dispatcher needs to send rows back

    def arrived(self, num_local: int) -> Dispatched:
        """Waits for the rows -> in the order of the experts that are here."""
        for task in self.tasks:
            task.wait()
        permutation = _sorted(self.ids, num_local)
        return Dispatched(
            rows=moe_permute(self.rows, permutation),
            row_weights=_row_weights(self.weights, permutation),
            permutation=_with_free_rows(permutation),
            travel=self.travel,
        )


class ExpertParallelDispatcher:
    """The methods of `LocalDispatcher`, for experts that lie in equal runs on the processes of a group."""

    def __init__(self, num_experts: int, group: dist.communication.group.Group):
        self.group, self.num_local = group, num_experts // group.nranks

    def run(
        self,
        hidden_states: paddle.Tensor,
        routing: Routing,
        experts: Experts,
        shared: Callable[[paddle.Tensor], paddle.Tensor] | None = None,
    ) -> paddle.Tensor:
        """hidden_states [tokens, hidden] -> the sum over each token's chosen experts, and `shared`, [tokens, hidden].

        `shared` works while the rows are on their way.
        """
        on_the_way = self.dispatch(hidden_states, routing)
        beside = None if shared is None else shared(hidden_states)
        sent = on_the_way.arrived(self.num_local)
        rows = experts(sent.rows, sent.row_weights, sent.permutation.tokens_per_expert)
        output = self.combine(rows, sent)
        return output if beside is None else output + beside

    def dispatch(self, hidden_states: paddle.Tensor, routing: Routing) -> OnTheWay:
        """hidden_states [tokens, hidden] leave for their experts."""
        owner = routing.topk_ids // self.num_local  # [tokens, top_k]: the process of each chosen expert
        leaving = _sorted(_first_of_each(owner, self.group.nranks), self.group.nranks)
        sent = leaving.tokens_per_expert.tolist()
        count = sum(sent)
        process = paddle.repeat_interleave(paddle.arange(self.group.nranks), leaving.tokens_per_expert).unsqueeze(1)
        token_ids = leaving.token_ids[:count]
        is_there = paddle.gather(owner, token_ids) == process  # of each row's choices, which it travels for
        local_ids = paddle.gather(routing.topk_ids, token_ids) - process * self.num_local
        weights = paddle.gather(routing.topk_weights, token_ids) * is_there.astype(routing.topk_weights.dtype)

        received = self._counts(leaving.tokens_per_expert)
        ids = _sent(paddle.where(is_there, local_ids, self.num_local), self.group, sent, received)
        weights = _AllToAll.apply(weights, self.group, sent, received)
        tasks: list = []
        rows = moe_permute(hidden_states, leaving)[:count]
        return OnTheWay(
            _AllToAll.apply(rows, self.group, sent, received, tasks),
            tasks,
            weights,
            ids,
            Travel(leaving, sent, received),
        )

    def combine(self, rows: paddle.Tensor, dispatched: Dispatched) -> paddle.Tensor:
        """rows [rows, hidden], already weighted -> [tokens, hidden] on the processes they came from."""
        return self._back(moe_unpermute(rows, dispatched.permutation), dispatched.travel)

    def _back(self, summed: paddle.Tensor, travel: Travel) -> paddle.Tensor:
        """One row for each that has come -> the sum of a token's, where it came from."""
        back = _AllToAll.apply(summed, self.group, travel.received, travel.sent)
        free = travel.leaving.token_ids.shape[0] - back.shape[0]
        return moe_unpermute(paddle.concat([back, paddle.zeros([free, *back.shape[1:]], back.dtype)]), travel.leaving)

    def _counts(self, sent: paddle.Tensor) -> list[int]:
        return _sent(sent, self.group, [1] * self.group.nranks, [1] * self.group.nranks).tolist()


def _first_of_each(owner: paddle.Tensor, nowhere: int) -> paddle.Tensor:
    """owner [tokens, top_k] with `nowhere` in the place of what an earlier choice of the token has already."""
    earlier = paddle.tril(paddle.ones([owner.shape[1]] * 2, "int32"), -1).astype("bool")
    again = ((owner.unsqueeze(2) == owner.unsqueeze(1)) & earlier).any(-1)
    return paddle.where(again, paddle.full_like(owner, nowhere), owner)


def _sorted(ids: paddle.Tensor, num: int) -> Permutation:
    """ids int64 [tokens, top_k] of 0 to `num`, `num` meaning none -> the rows of the others, and free rows behind them.

    What goes nowhere shares a free row, of which there is one; two where one would make as many rows as slots, which a
    permutation takes for none being free.
    """
    full = sort_by_expert(ids, num + 1)
    counts = full.tokens_per_expert[:num]
    count = int(counts.sum())
    free = paddle.full([1 + (count + 1 == ids.shape[0] * ids.shape[1])], -1, "int64")
    token_ids, slot_ids = (paddle.concat([one[:count], free]) for one in (full.token_ids, full.slot_ids))
    return Permutation(token_ids, slot_ids, full.row_ids.clip(max=count), counts)


def _row_weights(weights: paddle.Tensor, permutation: Permutation) -> paddle.Tensor:
    """weights [tokens, top_k] -> of each row, 0 for free ones."""
    count = int(permutation.tokens_per_expert.sum())
    own = paddle.gather(weights.flatten(), permutation.slot_ids[:count])
    return paddle.concat([own, paddle.zeros([permutation.slot_ids.shape[0] - count], weights.dtype)])


def _with_free_rows(permutation: Permutation) -> Permutation:
    """The last expert works on the free rows too: they hold zeros, weigh nothing and have no gradient."""
    counts = permutation.tokens_per_expert.clone()
    counts[-1] += permutation.slot_ids.shape[0] - int(counts.sum())
    return Permutation(permutation.token_ids, permutation.slot_ids, permutation.row_ids, counts)


def _sent(rows: paddle.Tensor, group, sent: list[int], received: list[int], tasks: list | None = None) -> paddle.Tensor:
    """What the processes of the group have sent to this one, [sum of received, ...]; given `tasks`, once these are."""
    arrived = paddle.empty([sum(received), *rows.shape[1:]], rows.dtype)
    task = dist.alltoall_single(arrived, rows, sent, received, group=group, sync_op=tasks is None)
    if tasks is not None:
        tasks.append(task)
    return arrived


class _AllToAll(PyLayer):
    """The gradient of a journey is the journey back."""

    @staticmethod
    def forward(ctx, rows, group, sent, received, tasks=None):
        ctx.group, ctx.sent, ctx.received = group, sent, received
        return _sent(rows, group, sent, received, tasks)

    @staticmethod
    def backward(ctx, grad):
        return _sent(grad, ctx.group, ctx.received, ctx.sent)
