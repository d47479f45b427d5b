"""Experts as a program of fixed size runs them: no loop over experts, no shape but one that depends on what is routed.

`ops.moe` is the definition. It splits rows by the experts' counts, which a program cannot know when it is written.
"""

from collections.abc import Callable

import paddle
import paddle.nn.functional as F

from ernie5.layers.experts import Experts
from ernie5.ops.moe import GATHERED_SLOTS
from ernie5.ops.router import Routing


class MixingDispatcher:
    """Takes the place of `LocalDispatcher` while a program is written."""

    def run(
        self,
        hidden_states: paddle.Tensor,
        routing: Routing,
        experts: Experts,
        shared: Callable[[paddle.Tensor], paddle.Tensor] | None = None,
    ) -> paddle.Tensor:
        """hidden_states [tokens, hidden] -> the sum over each token's chosen experts, and `shared`, [tokens, hidden].

        Few (token, choice) slots take a copy of their expert's matrices each; of more, each expert gets as much room as
        the busiest one fills, and all are one product. Zero tokens are zero rows of either.
        """
        ids, weights = routing.topk_ids, routing.topk_weights
        if paddle.shape(hidden_states)[0] * ids.shape[1] <= GATHERED_SLOTS:
            output = _by_gathered_matrices(hidden_states, ids, weights, experts.gate_up_proj, experts.down_proj)
        else:
            output = _by_equal_room(hidden_states, ids, weights, experts.gate_up_proj, experts.down_proj)
        return output if shared is None else output + shared(hidden_states)


def _by_gathered_matrices(hidden_states, ids, weights, gate_up_proj, down_proj) -> paddle.Tensor:
    hidden, top_k = hidden_states.shape[1], ids.shape[1]
    flat = ids.flatten()
    rows = paddle.gather(hidden_states, _tokens_of(flat, top_k)).unsqueeze(1)  # [slots, 1, hidden]
    inner = F.swiglu(paddle.bmm(rows, paddle.gather(gate_up_proj, flat)))
    inner = inner * weights.reshape([-1, 1, 1]).astype(inner.dtype)
    return paddle.bmm(inner, paddle.gather(down_proj, flat)).reshape([-1, top_k, hidden]).sum(1)


def _by_equal_room(hidden_states, ids, weights, gate_up_proj, down_proj) -> paddle.Tensor:
    hidden, top_k, num_experts = hidden_states.shape[1], ids.shape[1], gate_up_proj.shape[0]
    flat = ids.flatten()
    chosen = F.one_hot(flat, num_experts)  # float32 [slots, experts]: integers run wrong under oneDNN, should it be on
    before = (paddle.cumsum(chosen, axis=0) * chosen).sum(-1).astype("int64") - 1  # of the same expert's slots
    room = chosen.sum(0).max().astype("int64")
    place = flat * room + before
    rows = paddle.gather(hidden_states, _tokens_of(flat, top_k))
    filled = paddle.scatter(paddle.zeros([num_experts * room, hidden], rows.dtype), place, rows)
    inner = F.swiglu(paddle.bmm(filled.reshape([num_experts, -1, hidden]), gate_up_proj))
    output = paddle.bmm(inner, down_proj).reshape([-1, hidden])  # [experts * room, hidden]
    output = paddle.gather(output, place) * weights.reshape([-1, 1]).astype(output.dtype)
    return output.reshape([-1, top_k, hidden]).sum(1)


def _tokens_of(flat: paddle.Tensor, top_k: int) -> paddle.Tensor:
    """int64 [slots]: the token of each."""
    return paddle.arange(paddle.shape(flat)[0], dtype="int64") // top_k
