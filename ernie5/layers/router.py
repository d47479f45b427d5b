"""The router: one for all modalities, balanced by a bias instead of a loss (report §2.1; arXiv:2408.15664)."""

import paddle
from paddle import nn

from ernie5.config.schema import MoEConfig
from ernie5.ops.router import Routing, route


class Router(nn.Layer):
    """Scores every token against every expert, in float32 whatever the model's dtype.

    `expert_bias` [experts] is state, not a parameter: the trainer moves it after each step towards an even load.
    """

    def __init__(self, hidden_size: int, config: MoEConfig, initializer_range: float):
        super().__init__()
        self.score = config.router_score
        self.scaling = config.routed_scaling_factor
        self.weight = self.create_parameter(
            [hidden_size, config.num_experts],
            dtype="float32",
            default_initializer=nn.initializer.Normal(0.0, initializer_range),
        )
        self.register_buffer("expert_bias", paddle.zeros([config.num_experts], "float32"))

    def forward(self, hidden_states: paddle.Tensor, expert_mask: paddle.Tensor, top_k: int) -> Routing:
        """hidden_states [tokens, hidden], expert_mask float32 [experts] (0 keeps, -inf removes) -> Routing."""
        router_logits = paddle.matmul(hidden_states.astype("float32"), self.weight)
        return route(router_logits, self.expert_bias, expert_mask, top_k, self.score, self.scaling)
