"""Context parallelism: the tokens of a row lie on several processes, which send each other the keys that are seen.

Every process knows the masks of whole rows, so each knows which keys the queries of every other one see; these keys and
values travel once, nothing else does, and then a process attends to them as if they were its own. What a ring of
processes (arXiv:2310.01889) sends round in steps, whoever sees it, is so one message to those who do: short documents,
windows of frames and padding cost what they have in common with other processes.
"""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.autograd import PyLayer

from ernie5.ops.attention import Mask, flashmask_attention


def own_tokens(seq_len: int, degree: int, place: int) -> np.ndarray:
    """int64 [seq_len / degree]: the positions of a row that one of `degree` processes holds, ascending.

    Of 2 * degree equal chunks, one from the front and its mirror image from the back: under a causal mask all processes
    then have the same number of pairs of query and key.
    """
    chunk = seq_len // (2 * degree)
    starts = place * chunk, (2 * degree - 1 - place) * chunk
    return np.concatenate([np.arange(start, start + chunk) for start in starts])


class _Plan(NamedTuple):
    """Who sends what under a mask. Rows are those of flattened [batch, tokens]; processes come in the group's order."""

    mask: Mask  # of this process's queries and the keys that they see
    leaving: paddle.Tensor  # int64 [sum of sent]: rows of this process's tokens, by the process they go to
    sent: list[int]  # rows to each process, this one too
    received: list[int]  # rows from each
    places: paddle.Tensor  # int64 [batch * keys]: the received row of each key, any where the mask hides it
    arrived: paddle.Tensor  # int64 [sum of received]: the other way round


class ContextParallelAttention:
    """`flashmask_attention` for the tokens that this process holds of each row (`own_tokens`), given whole rows' mask.

    Equal to one process in outputs and gradients. Where all queries of the mask are at hand, as in evaluation by one
    process and in decoding, nothing travels.
    """

    def __init__(self, group: dist.communication.group.Group):
        self.group = group
        self._plans: WeakKeyDictionary[Mask, dict[int, _Plan]] = WeakKeyDictionary()  # by mask and batch

    def __call__(self, query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor, mask: Mask) -> paddle.Tensor:
        """query [batch, own, heads, head_dim], key and value [batch, own, kv_heads, head_dim], mask [batch or 1] of
        seq queries and keys -> [batch, own, heads * head_dim]."""
        batch, own, kv_heads, head_dim = key.shape
        if query.shape[1] == mask.num_queries:
            return flashmask_attention(query, key, value, mask)
        plans = self._plans.setdefault(mask, {})
        if batch not in plans:
            plans[batch] = _plan(mask, batch, self.group.nranks, self.group.rank)
        plan = plans[batch]
        rows = paddle.concat([one.reshape([batch * own, kv_heads * head_dim]) for one in (key, value)], axis=1)
        seen = _Seen.apply(rows, plan, self.group)
        key, value = (
            one.reshape([batch, plan.mask.num_keys, kv_heads, head_dim]) for one in paddle.split(seen, 2, axis=1)
        )
        return flashmask_attention(query, key, value, plan.mask)


def _plan(mask: Mask, batch: int, degree: int, place: int) -> _Plan:
    positions = [own_tokens(mask.num_queries, degree, one) for one in range(degree)]
    seen = [_seen(mask, batch, queries) for queries in positions]  # bool [batch, seq], by each process
    keys = np.flatnonzero(seen[place].any(0))
    leaving = [np.flatnonzero(of_one[:, positions[place]]) for of_one in seen]
    arriving = [np.nonzero(seen[place][:, of_one]) for of_one in positions]  # row of the batch, which of its tokens
    key_ids = [np.searchsorted(keys, of_one[which]) for of_one, (_, which) in zip(positions, arriving, strict=True)]
    arrived = np.concatenate([row * len(keys) + ids for (row, _), ids in zip(arriving, key_ids, strict=True)])
    places = np.zeros(batch * len(keys), np.int64)
    places[arrived] = np.arange(len(arrived))
    return _Plan(
        mask=mask.part(positions[place], keys),
        leaving=paddle.to_tensor(np.concatenate(leaving)),
        sent=[len(rows) for rows in leaving],
        received=[len(ids) for ids in key_ids],
        places=paddle.to_tensor(places),
        arrived=paddle.to_tensor(arrived),
    )


def _seen(mask: Mask, batch: int, queries: np.ndarray) -> np.ndarray:
    """bool [batch, keys]: what a process's queries see; where that is nothing, a token of its own, not to be empty."""
    seen = mask.part(queries, np.arange(mask.num_keys)).seen()
    seen = np.repeat(seen, batch // len(seen), axis=0)
    if not seen.any():
        seen[0, queries[0]] = True
    return seen


class _Seen(PyLayer):
    """rows [batch * own, width] of this process's tokens -> [batch * keys, width], those that its queries see."""

    @staticmethod
    def forward(ctx, rows, plan: _Plan, group):
        ctx.plan, ctx.group, ctx.count = plan, group, rows.shape[0]
        arrived = _exchanged(paddle.gather(rows, plan.leaving), group, plan.sent, plan.received)
        return paddle.gather(arrived, plan.places)

    @staticmethod
    def backward(ctx, grad):
        """Gradients come back from all who have seen a row and are added in the group's order, at least in float32."""
        plan = ctx.plan
        back = _exchanged(paddle.gather(grad, plan.arrived), ctx.group, plan.received, plan.sent)
        wide = back.astype("float32") if back.dtype in (paddle.bfloat16, paddle.float16) else back
        total = paddle.zeros([ctx.count, wide.shape[1]], wide.dtype)
        end = 0
        for count in plan.sent:
            start, end = end, end + count
            if count:  # no row twice in one of these: the order of sums is that of the loop
                paddle.index_add_(total, plan.leaving[start:end], 0, wide[start:end])
        return total.astype(grad.dtype)


def _exchanged(rows: paddle.Tensor, group, sent: list[int], received: list[int]) -> paddle.Tensor:
    """What the processes of the group have sent to this one, [sum of received, width]."""
    arrived = paddle.empty([sum(received), rows.shape[1]], rows.dtype)
    dist.alltoall_single(arrived, rows, sent, received, group=group)
    return arrived
