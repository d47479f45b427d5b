"""The mixture-of-experts layer (report §2.1)."""

from typing import NamedTuple

import paddle
from paddle import nn

from ernie5.config.schema import MoEConfig
from ernie5.layers.dispatcher import LocalDispatcher
from ernie5.layers.experts import Experts
from ernie5.layers.mlp import GatedMLP
from ernie5.layers.router import Router


class MoEOutput(NamedTuple):
    hidden_states: paddle.Tensor  # [batch, seq, hidden]
    tokens_per_expert: paddle.Tensor  # int64 [experts]


class MoE(nn.Layer):
    """sum over the chosen experts of weight * expert(x), plus the shared experts, if any."""

    def __init__(self, hidden_size: int, config: MoEConfig, initializer_range: float):
        super().__init__()
        self.gate = Router(hidden_size, config, initializer_range)
        self.experts = Experts(hidden_size, config, initializer_range)
        self.dispatcher = LocalDispatcher(config.num_experts)
        self.shared_experts = None
        if config.num_shared_experts:
            width = config.num_shared_experts * config.moe_intermediate_size
            self.shared_experts = GatedMLP(hidden_size, width, initializer_range)

    def forward(self, hidden_states: paddle.Tensor, expert_mask: paddle.Tensor, top_k: int) -> MoEOutput:
        """hidden_states [batch, seq, hidden], expert_mask float32 [experts] of 0 and -inf."""
        tokens = hidden_states.reshape([-1, hidden_states.shape[-1]])
        routing = self.gate(tokens, expert_mask, top_k)
        output = self.dispatcher.run(tokens, routing, self.experts, self.shared_experts)
        return MoEOutput(output.reshape(hidden_states.shape), routing.tokens_per_expert)
