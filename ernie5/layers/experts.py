"""The routed experts of a layer, their weights stacked."""

import paddle
from paddle import nn

from ernie5.config.schema import MoEConfig
from ernie5.ops.moe import expert_ffn


class Experts(nn.Layer):
    """gate_up_proj [experts, hidden, 2 * ffn] (gate first) and down_proj [experts, ffn, hidden]."""

    def __init__(self, hidden_size: int, config: MoEConfig, initializer_range: float):
        super().__init__()
        normal = nn.initializer.Normal(0.0, initializer_range)
        width = config.moe_intermediate_size
        shape = [config.num_experts, hidden_size, 2 * width]
        self.gate_up_proj = self.create_parameter(shape, default_initializer=normal)
        self.down_proj = self.create_parameter([config.num_experts, width, hidden_size], default_initializer=normal)

    def forward(
        self, rows: paddle.Tensor, row_weights: paddle.Tensor, tokens_per_expert: paddle.Tensor
    ) -> paddle.Tensor:
        """rows [slots, hidden] in expert order, row_weights [slots], tokens_per_expert [experts] -> [slots, hidden]."""
        return expert_ffn(rows, row_weights, tokens_per_expert, self.gate_up_proj, self.down_proj)
