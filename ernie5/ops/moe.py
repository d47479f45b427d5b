"""Moving tokens to their experts and back, and the experts' SwiGLU over ragged groups of rows."""

from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from ernie5.ops import backend

ID_DTYPES = backend.Dtypes((paddle.int64,), (paddle.int64,))
EXPERT_DTYPES = backend.Dtypes(backend.CPU_FLOATS, (paddle.bfloat16,))
MOE_DTYPES = backend.Dtypes(backend.CPU_FLOATS)  # on a GPU the moves and the experts are operators of their own
GPU_MAX_EXPERTS, GPU_WIDTH = 1024, 8  # of the kernels for GPUs: so many experts, and widths that are multiples of it
# Decoding so few (token, choice) slots, gathered matrices are twice as fast as a loop over the experts; at 32 as fast.
GATHERED_SLOTS = 16


@dataclass(frozen=True, eq=False)  # not a tuple: a PyLayer would take its tensors as inputs that want gradients
class Permutation:
    """Where the (token, choice) slots stand once sorted by expert; ties keep token order, so a run is reproducible.

    rows = slots, or with an alignment slots + experts * (alignment - 1), of which some belong to no slot.
    """

    token_ids: paddle.Tensor  # int64 [rows]: the token of each sorted row, -1 for a row without a slot
    slot_ids: paddle.Tensor  # int64 [rows]: the flat (token, choice) of each sorted row, or -1
    row_ids: paddle.Tensor  # int64 [tokens, top_k]: the sorted row of each (token, choice)
    tokens_per_expert: paddle.Tensor  # int64 [experts]

    def tokens_per_rank(self, num_ranks: int) -> paddle.Tensor:
        """int64 [ranks, local_experts], where each rank has as many experts, in order.

        Rows in expert order are in rank order too, so its sums are the sizes to send. What a rank receives is sorted
        anew, by `sort_by_expert` of each row's local expert as its only choice.
        """
        return self.tokens_per_expert.reshape([num_ranks, -1])


def sort_by_expert(topk_ids: paddle.Tensor, num_experts: int, alignment: int = 1) -> Permutation:
    """topk_ids int64 [tokens, top_k] -> Permutation. Each expert's rows begin at a multiple of `alignment`."""
    if backend.takes("sort_by_expert", ID_DTYPES, topk_ids) and _fits(num_experts):
        return Permutation(*backend.call("sort_by_expert", [topk_ids], num_experts, alignment))
    top_k = topk_ids.shape[1]
    flat = topk_ids.detach().flatten()
    slot_ids = paddle.argsort(flat, stable=True)
    counts = paddle.bincount(flat, minlength=num_experts)
    row_ids = paddle.argsort(slot_ids)
    if alignment > 1:
        aligned = (counts + (alignment - 1)) // alignment * alignment
        moved = (paddle.cumsum(aligned) - aligned) - (paddle.cumsum(counts) - counts)  # of an expert's first row
        row_ids = row_ids + paddle.gather(moved, flat)
        rows = paddle.full([flat.shape[0] + num_experts * (alignment - 1)], -1, "int64")
        slot_ids = paddle.scatter(rows, row_ids, paddle.arange(flat.shape[0]))
    return Permutation(slot_ids // top_k, slot_ids, row_ids.reshape([-1, top_k]), counts)


def moe_permute(hidden_states: paddle.Tensor, permutation: Permutation) -> paddle.Tensor:
    """hidden_states [tokens, hidden] -> [rows, hidden] in expert order, zeros where a row has no token."""
    if backend.takes("moe_permute", backend.FLOATS, hidden_states):
        return backend.call("moe_permute", [hidden_states, permutation.token_ids, permutation.row_ids])[0]
    return _Permute.apply(hidden_states, permutation)


def moe_unpermute(
    rows: paddle.Tensor, permutation: Permutation, topk_weights: paddle.Tensor | None = None
) -> paddle.Tensor:
    """rows [rows, hidden] in expert order -> [tokens, hidden], the sum of each token's rows, in the order of choices.

    topk_weights [tokens, top_k]: of the sum; without it all are 1.
    """
    if backend.takes("moe_unpermute", backend.FLOATS, rows):
        inputs = [rows, permutation.token_ids, permutation.row_ids]
        if topk_weights is None:
            return backend.call("moe_unpermute", inputs)[0]
        return backend.call("moe_unpermute_weighted", [*inputs, _weights_for(rows, topk_weights)])[0]
    if topk_weights is not None:
        row_weights = _gather_or_zero(topk_weights.flatten(), permutation.slot_ids)
        rows = rows * row_weights.unsqueeze(-1).astype(rows.dtype)
    return _Unpermute.apply(rows, permutation)


def _weights_for(rows: paddle.Tensor, weights: paddle.Tensor) -> paddle.Tensor:
    """The weights in what the compiled operators compute in; a cast to the same dtype would cost a copy."""
    dtype = paddle.float64 if rows.dtype == paddle.float64 else paddle.float32
    return weights if weights.dtype == dtype else weights.astype(dtype)


class _Permute(PyLayer):
    """The gradient of a copy to k places is the sum over them: gathers, where autograd's scatter is 4 times slower."""

    @staticmethod
    def forward(ctx, hidden_states, permutation):
        ctx.permutation = permutation
        return _rows_of(hidden_states, permutation)

    @staticmethod
    def backward(ctx, grad):
        return _sum_over_choices(grad, ctx.permutation)


class _Unpermute(PyLayer):
    @staticmethod
    def forward(ctx, rows, permutation):
        ctx.permutation = permutation
        return _sum_over_choices(rows, permutation)

    @staticmethod
    def backward(ctx, grad):
        return _rows_of(grad, ctx.permutation)


def _rows_of(hidden_states: paddle.Tensor, permutation: Permutation) -> paddle.Tensor:
    """[tokens, hidden] -> [rows, hidden], zeros where a row has no token."""
    token_ids = permutation.token_ids
    if token_ids.shape[0] == permutation.row_ids.shape[0] * permutation.row_ids.shape[1]:
        return paddle.gather(hidden_states, token_ids)
    return _gather_or_zero(hidden_states, token_ids)


def _gather_or_zero(values: paddle.Tensor, ids: paddle.Tensor) -> paddle.Tensor:
    """values[ids], zeros where an id is -1."""
    zero = paddle.zeros([1, *values.shape[1:]], values.dtype)
    return paddle.gather(paddle.concat([values, zero]), paddle.where(ids < 0, values.shape[0], ids))


def _sum_over_choices(rows: paddle.Tensor, permutation: Permutation) -> paddle.Tensor:
    """[slots, hidden] -> [tokens, hidden], one gather a choice: a reduction over a middle dim is slower on CPU."""
    choices = paddle.unbind(permutation.row_ids, axis=1)
    total = paddle.gather(rows, choices[0])
    for row_ids in choices[1:]:
        total = total + paddle.gather(rows, row_ids)
    return total


def expert_ffn(
    rows: paddle.Tensor,
    row_weights: paddle.Tensor,
    tokens_per_expert: paddle.Tensor,
    gate_up_proj: paddle.Tensor,
    down_proj: paddle.Tensor,
) -> paddle.Tensor:
    """Each expert's down(silu(gate(x)) * up(x)) on its own rows, times the row's weight.

    rows [slots, hidden] in expert order, row_weights [slots], tokens_per_expert int64 [experts] (sums to slots),
    gate_up_proj [experts, hidden, 2 * ffn] (gate first), down_proj [experts, ffn, hidden] -> [slots, hidden].
    The weight is applied between the two products, where rows are narrowest; the second product is linear in it.
    """
    if backend.takes("expert_ffn", EXPERT_DTYPES, rows, gate_up_proj, down_proj) and _fits(*down_proj.shape):
        inputs = [rows, _weights_for(rows, row_weights), tokens_per_expert, gate_up_proj, down_proj]
        return backend.call("expert_ffn", inputs, _wants_gradients(*inputs))[0]
    counts = tokens_per_expert.tolist()
    if rows.shape[0] <= GATHERED_SLOTS and not paddle.is_grad_enabled():
        return _gathered_ffn(rows, row_weights, counts, gate_up_proj, down_proj)
    busy = [expert for expert, count in enumerate(counts) if count]
    counts = [counts[expert] for expert in busy]
    inner = _grouped_product(rows, _matrices(gate_up_proj, busy), counts)
    inner = F.swiglu(inner) * row_weights.unsqueeze(-1).astype(inner.dtype)
    return _grouped_product(inner, _matrices(down_proj, busy), counts)


def moe_ffn(
    hidden_states: paddle.Tensor,
    topk_ids: paddle.Tensor,
    topk_weights: paddle.Tensor,
    gate_up_proj: paddle.Tensor,
    down_proj: paddle.Tensor,
) -> paddle.Tensor:
    """The sum over a token's chosen experts of weight * expert(x), all experts being here.

    hidden_states [tokens, hidden], topk_ids int64 and topk_weights [tokens, top_k], gate_up_proj [experts, hidden,
    2 * ffn] (gate first), down_proj [experts, ffn, hidden] -> [tokens, hidden]. Compiled, rows in expert order exist a
    block at a time only; this definition makes all of them.
    """
    if backend.takes("moe_ffn", MOE_DTYPES, hidden_states, gate_up_proj, down_proj):
        inputs = [hidden_states, topk_ids, _weights_for(hidden_states, topk_weights), gate_up_proj, down_proj]
        return backend.call("moe_ffn", inputs, _wants_gradients(*inputs))[0]
    permutation = sort_by_expert(topk_ids, gate_up_proj.shape[0])
    row_weights = paddle.gather(topk_weights.flatten(), permutation.slot_ids)
    rows = moe_permute(hidden_states, permutation)
    rows = expert_ffn(rows, row_weights, permutation.tokens_per_expert, gate_up_proj, down_proj)
    return moe_unpermute(rows, permutation)


def _fits(experts: int, *widths: int) -> bool:
    limited = backend.on_gpu()
    return not limited or (experts <= GPU_MAX_EXPERTS and all(width % GPU_WIDTH == 0 for width in widths))


def _wants_gradients(*tensors: paddle.Tensor) -> bool:
    """Whether an operator has to keep what its gradient needs."""
    return paddle.is_grad_enabled() and not all(tensor.stop_gradient for tensor in tensors)


def _gathered_ffn(rows, row_weights, counts: list[int], gate_up_proj, down_proj) -> paddle.Tensor:
    """expert_ffn with a copy of its expert's matrices for each row: as few operators for many experts as for one."""
    experts = paddle.to_tensor(np.repeat(np.arange(len(counts)), counts))
    inner = paddle.bmm(rows.unsqueeze(1), paddle.gather(gate_up_proj, experts))  # [slots, 1, 2 * ffn]
    inner = F.swiglu(inner) * row_weights.reshape([-1, 1, 1]).astype(inner.dtype)
    return paddle.bmm(inner, paddle.gather(down_proj, experts)).squeeze(1)


def _matrices(weights: paddle.Tensor, experts: list[int]) -> list[paddle.Tensor]:
    """The experts' matrices; unbound at once where gradients are wanted, since that of an index is of full size."""
    if paddle.is_grad_enabled():
        every = paddle.unbind(weights, 0)
        return [every[expert] for expert in experts]
    return [weights[expert] for expert in experts]  # unbind copies all of them: a third to a half of a decoding step


def _grouped_product(rows: paddle.Tensor, matrices: list[paddle.Tensor], counts: list[int]) -> paddle.Tensor:
    """Each run of rows, counts[i] long, times matrices[i]."""
    parts = paddle.split(rows, counts, axis=0)
    return paddle.concat([paddle.matmul(part, matrix) for part, matrix in zip(parts, matrices, strict=True)], axis=0)
