"""What DeepEP's `Buffer` does on one machine, over CPU process groups: the calls, the shapes and what is refused.

Written from the documentation of its Python interface as Paddle carries it (`paddle/distributed/communication/deep_ep/
buffer.py`), so that the dispatcher's use of it can be tested without a GPU.
"""

import paddle
import paddle.distributed as dist


class Event:
    """Nothing has arrived before it is waited for: until then what was received is not a number."""

    def __init__(self, arrive=lambda: None):
        self._arrive = arrive

    def calc_stream_wait(self, group_id: int) -> None:
        assert isinstance(group_id, int)
        self._arrive()


class Buffer:
    """Rows by process in the order of the processes, and of a process in the order of its tokens."""

    def __init__(self, group, row_bytes: int):
        self.group, self.row_bytes = group, row_bytes

    def get_dispatch_layout(
        self, topk_idx, num_experts, previous_event=None, async_finish=False, allocate_on_comm_stream=False
    ):
        assert topk_idx.dtype == paddle.int64 and num_experts % self.group.nranks == 0
        local = num_experts // self.group.nranks
        owner = paddle.where(topk_idx >= 0, topk_idx // local, paddle.full_like(topk_idx, -1))
        ranks = paddle.arange(self.group.nranks)
        is_in_rank = (owner.unsqueeze(-1) == ranks).any(1)  # [tokens, ranks]
        per_expert = (topk_idx.flatten().unsqueeze(-1) == paddle.arange(num_experts)).astype("int32").sum(0)
        return is_in_rank.astype("int32").sum(0).astype("int32"), None, per_expert, is_in_rank, Event()

    def dispatch(
        self,
        x,
        handle=None,
        num_tokens_per_rank=None,
        num_tokens_per_rdma_rank=None,
        is_token_in_rank=None,
        num_tokens_per_expert=None,
        topk_idx=None,
        topk_weights=None,
        expert_alignment=1,
        config=None,
        previous_event=None,
        async_finish=False,
        allocate_on_comm_stream=False,
    ):
        assert x.shape[1] * 2 <= self.row_bytes and x.is_contiguous()
        if handle is not None:
            assert topk_idx is None and topk_weights is None
            is_in_rank, sent, received = handle
            return self._travel(self._leaving(x, is_in_rank), sent, received), None, None, None, None, Event()
        assert None not in (num_tokens_per_rank, is_token_in_rank, num_tokens_per_expert)
        assert topk_weights.dtype == paddle.float32 and expert_alignment == 1
        assert async_finish or not allocate_on_comm_stream  # DeepEP refuses memory of a stream that is not waited for
        sent = num_tokens_per_rank.tolist()
        ones = [1] * self.group.nranks
        received = self._travel(num_tokens_per_rank.astype("int64"), ones, ones).tolist()
        local = num_tokens_per_expert.shape[0] // self.group.nranks
        arrive = [self._travel(self._leaving(one, is_token_in_rank), sent, received) for one in (x, topk_weights)]
        ids = self._travel(self._leaving(topk_idx, is_token_in_rank), sent, received) - self.group.rank * local
        is_here = (ids >= 0) & (ids < local)
        weights = paddle.where(is_here, arrive[1], paddle.zeros_like(arrive[1]))
        ids = paddle.where(is_here, ids, paddle.full_like(ids, -1))
        counts = [(ids == expert).sum().item() for expert in range(local)]
        rows = paddle.full_like(arrive[0], float("nan")) if async_finish else arrive[0]
        event = Event(lambda: paddle.assign(arrive[0], rows) if rows.shape[0] else None)
        return rows, ids, weights, counts, (is_token_in_rank, sent, received), event

    def combine(
        self,
        x,
        handle,
        topk_weights=None,
        config=None,
        previous_event=None,
        async_finish=False,
        allocate_on_comm_stream=False,
    ):
        is_in_rank, sent, received = handle
        assert x.is_contiguous() and x.shape[0] == sum(received)
        assert topk_weights is None or topk_weights.dtype == paddle.float32
        summed = [None if one is None else self._summed(one, is_in_rank, sent, received) for one in (x, topk_weights)]
        return *summed, Event()

    def _leaving(self, values, is_in_rank):
        token = paddle.nonzero(is_in_rank.t())[:, 1]  # by process
        return paddle.gather(values, token) if token.shape[0] else values[:0]

    def _travel(self, values, sent, received):
        arrived = paddle.empty([sum(received), *values.shape[1:]], values.dtype)
        dist.alltoall_single(arrived, values, sent, received, group=self.group)
        return arrived

    def _summed(self, values, is_in_rank, sent, received):
        back, token = self._travel(values, received, sent), paddle.nonzero(is_in_rank.t())[:, 1]
        total = paddle.zeros([is_in_rank.shape[0], *values.shape[1:]], values.dtype)
        return paddle.index_add(total, token, 0, back) if token.shape[0] else total
