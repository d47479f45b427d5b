"""The router: one for all modalities, balanced by a bias instead of a loss (report §2.1; arXiv:2408.15664)."""

from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.config.schema import MoEConfig

SMALLEST_SUM = 1e-12  # below it the chosen scores are not renormalised (ERNIE 4.5: moe_norm_min)


class Routing(NamedTuple):
    topk_ids: paddle.Tensor  # int64 [tokens, top_k]
    topk_weights: paddle.Tensor  # float32 [tokens, top_k]


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


def route(
    router_logits: paddle.Tensor,
    expert_bias: paddle.Tensor,
    expert_mask: paddle.Tensor,
    top_k: int,
    score: str,
    scaling: float = 1.0,
) -> Routing:
    """Chooses the top_k experts of each token by score + bias and weighs them by score alone, renormalised.

    The bias moves the choice and not the weight (arXiv:2408.15664 §3). The mask comes before the softmax, so that the
    weights of a narrower sub-network are those of the model extracted from it. router_logits float32 [tokens, experts].
    """
    masked = router_logits + expert_mask
    scores = F.softmax(masked, axis=-1) if score == "softmax" else F.sigmoid(masked)
    topk_ids = paddle.topk((scores + expert_bias + expert_mask).detach(), top_k, axis=-1)[1].detach()
    topk_weights = paddle.index_sample(scores, topk_ids)
    total = topk_weights.sum(-1, keepdim=True).clip(min=SMALLEST_SUM)
    return Routing(topk_ids, topk_weights / total * scaling)
