"""Tokens travel to experts by DeepEP's kernels (github.com/deepseek-ai/DeepEP), which Paddle's builds for CUDA carry.

Over NVLink inside a machine and RDMA between machines; a row goes once to each process, as in `expert_dispatcher.py`,
and the kernels also sum what comes back. Tested against a buffer of the same calls on CPU processes; it has not met a
GPU yet.
"""

import importlib
from collections.abc import Callable
from functools import cache
from types import ModuleType

import paddle
from paddle.autograd import PyLayer
from paddle.distributed.communication.group import Group

from ernie5.errors import UserError
from ernie5.ops.router import Routing
from ernie5.parallel.expert_dispatcher import ExpertParallelDispatcher, OnTheWay

HIDDEN_MULTIPLE = 256  # numbers of a row: 512 bytes in bfloat16, what a warp of the kernel that sums takes at once


def refusal(processes: int, hidden_size: int, precision: str) -> str:
    """Why DeepEP cannot be used here for experts on so many processes; "" where it can."""
    if not paddle.is_compiled_with_cuda():
        return "this Paddle is built without CUDA"
    try:
        deep_ep = _library()
        deep_ep.Buffer.get_dispatch_config(processes)
    except ImportError as error:
        return f"this Paddle has no DeepEP ({error})"
    except AssertionError:
        return f"it has no setting for {processes} processes"
    if precision != "bfloat16":
        return f"it sends bfloat16, and train.precision is {precision}"
    if hidden_size % HIDDEN_MULTIPLE:
        return f"hidden_size is {hidden_size}, not a multiple of {HIDDEN_MULTIPLE}"
    return ""


def choose_dispatcher(
    wanted: str, processes: int, hidden_size: int, precision: str
) -> tuple[type[ExpertParallelDispatcher], str]:
    """The dispatcher for `parallel.dispatcher`, and what to say of it. UserError for one that cannot be used here."""
    if wanted == "all_to_all" or processes == 1:
        return ExpertParallelDispatcher, "all-to-all"
    reason = refusal(processes, hidden_size, precision)
    if not reason:
        return DeepEPDispatcher, "DeepEP"
    if wanted == "deep_ep":
        raise UserError(f"parallel.dispatcher is deep_ep, but {reason}; set it to auto or all_to_all")
    return ExpertParallelDispatcher, f"all-to-all, not DeepEP: {reason}"


class DeepEPDispatcher(ExpertParallelDispatcher):
    """As `ExpertParallelDispatcher`, on DeepEP's buffers."""

    def __init__(self, num_experts: int, group: Group, open_buffer: Callable[[Group, int], object] | None = None):
        """`open_buffer`: (group, bytes of a row) -> a DeepEP `Buffer`; those of a group are shared by the layers."""
        super().__init__(num_experts, group)
        self._num_experts, self._open_buffer = num_experts, open_buffer or _buffer

    def dispatch(self, hidden_states: paddle.Tensor, routing: Routing) -> OnTheWay:
        """hidden_states [tokens, hidden] leave for their experts."""
        buffer = self._open_buffer(self.group, hidden_states.shape[1] * 2)
        travel = _Travel(buffer, self.group.id, routing.topk_ids, self._num_experts)
        rows, weights = _Dispatch.apply(hidden_states, routing.topk_weights, travel)
        is_here = travel.ids >= 0
        ids = paddle.where(is_here, travel.ids, paddle.full_like(travel.ids, self.num_local))
        return OnTheWay(rows, [travel], weights * is_here.astype(weights.dtype), ids, travel)

    def _back(self, summed: paddle.Tensor, travel: "_Travel") -> paddle.Tensor:
        return _Combine.apply(summed, travel)


class _Travel:
    """One journey: what DeepEP knows of its layout, for the way back and for the gradients."""

    def __init__(self, buffer, group_id: int, topk_ids: paddle.Tensor, num_experts: int):
        self.buffer, self.topk_ids, self.num_experts = buffer, topk_ids, num_experts
        self._group_id, self._event = group_id, None
        self.handle: tuple | None = None
        self.ids: paddle.Tensor | None = None  # int64 [received, top_k]: this process's experts, -1 for those of others

    def leave(self, hidden_states: paddle.Tensor, weights: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Rows and weights that arrive here, once `wait` has returned."""
        per_rank, per_rdma_rank, per_expert, is_in_rank, _ = self.buffer.get_dispatch_layout(
            self.topk_ids, self.num_experts
        )
        rows, self.ids, weights, _, self.handle, self._event = self.buffer.dispatch(
            hidden_states,
            num_tokens_per_rank=per_rank,
            num_tokens_per_rdma_rank=per_rdma_rank,
            is_token_in_rank=is_in_rank,
            num_tokens_per_expert=per_expert,
            topk_idx=self.topk_ids,
            topk_weights=weights,
            previous_event=_calculated(self._group_id),
            async_finish=True,
            allocate_on_comm_stream=True,
        )
        return rows, weights

    def wait(self) -> None:
        """The stream that computes goes on when the rows are there."""
        self._event.calc_stream_wait(self._group_id)


class _Dispatch(PyLayer):
    """The gradient of rows that went out is the sum of those that come back; of weights, too."""

    @staticmethod
    def forward(ctx, hidden_states, weights, travel):
        ctx.travel = travel
        return travel.leave(hidden_states, weights)

    @staticmethod
    def backward(ctx, grad_rows, grad_weights):
        travel = ctx.travel
        grad, grad_weights, _ = travel.buffer.combine(
            grad_rows.contiguous(), travel.handle, topk_weights=grad_weights.astype("float32")
        )
        return grad, grad_weights


class _Combine(PyLayer):
    """The gradient of a sum goes out to all of its parts."""

    @staticmethod
    def forward(ctx, rows, travel):
        ctx.travel = travel
        return travel.buffer.combine(rows.contiguous(), travel.handle)[0]

    @staticmethod
    def backward(ctx, grad):
        return ctx.travel.buffer.dispatch(grad.contiguous(), handle=ctx.travel.handle)[0]


def _library() -> ModuleType:
    return importlib.import_module("paddle.distributed.communication.deep_ep")


def _calculated(group_id: int):
    """The event that what was computed so far is done; None where nothing runs beside the program."""
    return _library().get_event_from_calc_stream(group_id) if paddle.is_compiled_with_cuda() else None


@cache
def _buffer(group: Group, row_bytes: int):
    """As large as DeepEP advises for rows of so many bytes."""
    kind = _library().Buffer
    configs = kind.get_dispatch_config(group.nranks), kind.get_combine_config(group.nranks)
    nvlink = max(config.get_nvl_buffer_size_hint(row_bytes, group.nranks) for config in configs)
    rdma = max(config.get_rdma_buffer_size_hint(row_bytes, group.nranks) for config in configs)
    return kind(group, nvlink, rdma)
