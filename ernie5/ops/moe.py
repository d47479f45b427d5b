"""Moving tokens to their experts and back, and the experts' SwiGLU over ragged groups of rows."""

from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

# Decoding so few (token, choice) slots, gathered matrices are twice as fast as a loop over the experts; at 32 as fast.
GATHERED_SLOTS = 16


@dataclass(frozen=True, eq=False)  # not a tuple: a PyLayer would take its tensors as inputs that want gradients
class Permutation:
    """Where the (token, choice) slots stand once sorted by expert; ties keep token order, so a run is reproducible."""

    token_ids: paddle.Tensor  # int64 [slots]: the token of each sorted row
    slot_ids: paddle.Tensor  # int64 [slots]: the flat (token, choice) of each sorted row
    row_ids: paddle.Tensor  # int64 [tokens, top_k]: the sorted row of each (token, choice)
    tokens_per_expert: paddle.Tensor  # int64 [experts]


def sort_by_expert(topk_ids: paddle.Tensor, num_experts: int) -> Permutation:
    """topk_ids int64 [tokens, top_k] -> Permutation."""
    top_k = topk_ids.shape[1]
    flat = topk_ids.detach().flatten()
    slot_ids = paddle.argsort(flat, stable=True)
    row_ids = paddle.argsort(slot_ids).reshape([-1, top_k])
    return Permutation(slot_ids // top_k, slot_ids, row_ids, paddle.bincount(flat, minlength=num_experts))


def moe_permute(hidden_states: paddle.Tensor, permutation: Permutation) -> paddle.Tensor:
    """hidden_states [tokens, hidden] -> [slots, hidden] in expert order."""
    return _Permute.apply(hidden_states, permutation)


def moe_unpermute(rows: paddle.Tensor, permutation: Permutation) -> paddle.Tensor:
    """rows [slots, hidden] in expert order -> [tokens, hidden], the sum of each token's rows."""
    return _Unpermute.apply(rows, permutation)


class _Permute(PyLayer):
    """The gradient of a copy to k places is the sum over them: gathers, where autograd's scatter is 4 times slower."""

    @staticmethod
    def forward(ctx, hidden_states, permutation):
        ctx.permutation = permutation
        return paddle.gather(hidden_states, permutation.token_ids)

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
        return paddle.gather(grad, ctx.permutation.token_ids)


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
    counts = tokens_per_expert.tolist()
    if rows.shape[0] <= GATHERED_SLOTS and not paddle.is_grad_enabled():
        return _gathered_ffn(rows, row_weights, counts, gate_up_proj, down_proj)
    busy = [expert for expert, count in enumerate(counts) if count]
    counts = [counts[expert] for expert in busy]
    inner = _grouped_product(rows, _matrices(gate_up_proj, busy), counts)
    inner = F.swiglu(inner) * row_weights.unsqueeze(-1).astype(inner.dtype)
    return _grouped_product(inner, _matrices(down_proj, busy), counts)


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
