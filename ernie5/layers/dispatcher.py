"""The one seam for expert traffic: brings every token to its experts and its results back. None is dropped."""

from collections.abc import Callable
from typing import NamedTuple

import paddle

from ernie5.layers.experts import Experts
from ernie5.ops import backend
from ernie5.ops.moe import Permutation, moe_ffn, moe_permute, moe_unpermute, sort_by_expert
from ernie5.ops.router import Routing


class Dispatched(NamedTuple):
    rows: paddle.Tensor  # [slots, hidden], grouped by expert
    row_weights: paddle.Tensor  # float32 [slots]
    permutation: Permutation


class LocalDispatcher:
    """All experts are here. Expert parallelism is another class with these three methods."""

    def __init__(self, num_experts: int):
        self.num_experts = num_experts

    def run(
        self,
        hidden_states: paddle.Tensor,
        routing: Routing,
        experts: Experts,
        shared: Callable[[paddle.Tensor], paddle.Tensor] | None = None,
    ) -> paddle.Tensor:
        """hidden_states [tokens, hidden] -> the sum over each token's chosen experts, and `shared`, [tokens, hidden].

        In one operator where that is compiled; else through `dispatch`, the experts and `combine`.
        """
        if backend.is_native("moe_ffn"):
            weights = experts.gate_up_proj, experts.down_proj
            output = moe_ffn(hidden_states, routing.topk_ids, routing.topk_weights, *weights)
        else:
            sent = self.dispatch(hidden_states, routing)
            rows = experts(sent.rows, sent.row_weights, sent.permutation.tokens_per_expert)
            output = self.combine(rows, sent)
        return output if shared is None else output + shared(hidden_states)

    def dispatch(self, hidden_states: paddle.Tensor, routing: Routing) -> Dispatched:
        """hidden_states [tokens, hidden] -> rows in expert order."""
        permutation = sort_by_expert(routing.topk_ids, self.num_experts)
        row_weights = paddle.gather(routing.topk_weights.flatten(), permutation.slot_ids)
        return Dispatched(moe_permute(hidden_states, permutation), row_weights, permutation)

    def combine(self, rows: paddle.Tensor, dispatched: Dispatched) -> paddle.Tensor:
        """rows [slots, hidden], already weighted -> [tokens, hidden]."""
        return moe_unpermute(rows, dispatched.permutation)
