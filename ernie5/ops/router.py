"""The choice of experts: scores, biased top-k, renormalised weights and the load (report §2.1; arXiv:2408.15664)."""

from typing import NamedTuple

import paddle
import paddle.nn.functional as F

from ernie5.ops import backend

SMALLEST_SUM = 1e-12  # below it the chosen scores are not renormalised (ERNIE 4.5: moe_norm_min)
DTYPES = backend.Dtypes((paddle.float32, paddle.float64), (paddle.float32,))
GPU_MAX_EXPERTS, GPU_MAX_TOP_K = 1024, 32  # of the kernel for GPUs


class Routing(NamedTuple):
    topk_ids: paddle.Tensor  # int64 [tokens, top_k]
    topk_weights: paddle.Tensor  # float32 [tokens, top_k]
    tokens_per_expert: paddle.Tensor  # int64 [experts]


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
    weights of a narrower sub-network are those of the model extracted from it. Of equal experts those with the lowest
    ids are chosen. router_logits float32 [tokens, experts], expert_bias and expert_mask float32 [experts].
    """
    inputs = [router_logits, expert_bias.detach(), expert_mask.detach()]
    if backend.takes("router", DTYPES, *inputs) and _fits(router_logits.shape[1], top_k):
        topk_ids, topk_weights, _, tokens_per_expert = backend.call("router", inputs, top_k, score, scaling)
        return Routing(topk_ids, topk_weights, tokens_per_expert)
    masked = router_logits + expert_mask
    scores = F.softmax(masked, axis=-1) if score == "softmax" else F.sigmoid(masked)
    choice = (scores + expert_bias + expert_mask).detach()
    # A stable sort, as Paddle's topk takes of equal values any, and others on another device.
    topk_ids = paddle.argsort(choice, axis=-1, descending=True, stable=True)[:, :top_k].detach()
    topk_weights = paddle.index_sample(scores, topk_ids)
    total = topk_weights.sum(-1, keepdim=True).clip(min=SMALLEST_SUM)
    tokens_per_expert = paddle.bincount(topk_ids.flatten(), minlength=expert_bias.shape[0])
    return Routing(topk_ids, topk_weights / total * scaling, tokens_per_expert)


def _fits(experts: int, top_k: int) -> bool:
    return not backend.on_gpu() or (experts <= GPU_MAX_EXPERTS and top_k <= GPU_MAX_TOP_K)
