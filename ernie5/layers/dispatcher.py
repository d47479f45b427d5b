"""The one seam for expert traffic: brings every token to its experts and its results back. None is dropped."""

from typing import NamedTuple

import paddle

from ernie5.layers.router import Routing
from ernie5.ops.moe import Permutation, moe_permute, moe_unpermute, sort_by_expert


class Dispatched(NamedTuple):
    rows: paddle.Tensor  # [slots, hidden], grouped by expert
    row_weights: paddle.Tensor  # float32 [slots]
    permutation: Permutation


class LocalDispatcher:
    """All experts are here. Expert parallelism is another class with these two methods."""

    def __init__(self, num_experts: int):
        self.num_experts = num_experts

    def dispatch(self, hidden_states: paddle.Tensor, routing: Routing) -> Dispatched:
        """hidden_states [tokens, hidden] -> rows in expert order."""
        permutation = sort_by_expert(routing.topk_ids, self.num_experts)
        row_weights = paddle.gather(routing.topk_weights.flatten(), permutation.slot_ids)
        return Dispatched(moe_permute(hidden_states, permutation), row_weights, permutation)

    def combine(self, rows: paddle.Tensor, dispatched: Dispatched) -> paddle.Tensor:
        """rows [slots, hidden], already weighted -> [tokens, hidden]."""
        return moe_unpermute(rows, dispatched.permutation)
