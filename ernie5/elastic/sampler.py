"""Draws the sub-network of a step (report §3.3), and names the members that evaluation reports."""

import numpy as np

from ernie5.config.schema import ElasticConfig, MemberConfig, ModelConfig
from ernie5.model.subnet import Subnet, full_subnet, make_subnet


def draw_subnet(model: ModelConfig, elastic: ElasticConfig, seed: int, step: int) -> Subnet:
    """The sub-network of one optimizer step: a function of (seed, step) alone: ranks agree, a resumed run repeats.

    Depth, width and sparsity are drawn independently, each reduced with its own probability; a reduced depth is uniform
    over [min_layers, layers - 1] and so on. Width draws another set of experts, of one size, in every layer.
    """
    rng = np.random.default_rng((seed, step))
    coins = rng.random(3)
    layer_ids = tuple(range(model.num_hidden_layers))
    experts, top_k = None, model.moe.num_experts_per_tok
    if coins[0] < elastic.depth_probability and elastic.min_layers < model.num_hidden_layers:
        depth = int(rng.integers(elastic.min_layers, model.num_hidden_layers))
        layer_ids = _draw_layers(rng, model.num_hidden_layers, depth, elastic)
    if coins[2] < elastic.sparsity_probability and elastic.min_top_k < top_k:
        top_k = int(rng.integers(elastic.min_top_k, top_k))
    if coins[1] < elastic.width_probability and elastic.min_experts < model.moe.num_experts:
        experts = _draw_experts(rng, model, elastic)
    return make_subnet(model, layer_ids, experts, top_k)


def _draw_layers(rng, num_layers: int, depth: int, elastic: ElasticConfig) -> tuple[int, ...]:
    """Keeps the first and last layers that must stay and draws the rest from the middle (report Fig. 4).

    Of every one of `layer_groups` runs as many are kept, or one more; where a run has too few, others keep more.
    """
    first, last = elastic.keep_first_layers, elastic.keep_last_layers
    groups = np.array_split(np.arange(num_layers), elastic.layer_groups)
    middle = [group[(group >= first) & (group < num_layers - last)] for group in groups]
    left = np.array([len(group) for group in middle])
    skipped = np.zeros_like(left)
    for _ in range(num_layers - depth):
        fewest = np.flatnonzero(left > skipped)
        fewest = fewest[skipped[fewest] == skipped[fewest].min()]
        skipped[rng.choice(fewest) if len(fewest) > 1 else fewest[0]] += 1
    kept = [
        rng.choice(group, len(group) - count, replace=False).tolist()
        for group, count in zip(middle, skipped, strict=True)
    ]
    return (*range(first), *sorted(sum(kept, [])), *range(num_layers - last, num_layers))


def _draw_experts(rng, model: ModelConfig, elastic: ElasticConfig) -> np.ndarray:
    """bool [layers + mtp blocks, experts], as many in each of `expert_multiple` equal runs; at least min_experts."""
    multiple, num_experts = elastic.expert_multiple, model.moe.num_experts
    count = multiple * int(rng.integers(-(-elastic.min_experts // multiple), -(-num_experts // multiple)))
    rows = model.num_hidden_layers + model.num_nextn_predict_layers
    kept = np.zeros([rows, num_experts], bool)
    for run in kept.reshape([-1, num_experts // multiple]):
        run[rng.choice(len(run), count // multiple, replace=False)] = True
    return kept


def member_subnet(model: ModelConfig, member: MemberConfig) -> Subnet:
    """A named member: the outermost layers (the middle is skipped), the first experts, the given top-k.

    As many layers stay at the top as predict codes of audio.
    """
    full = full_subnet(model)
    depth = member.num_layers or model.num_hidden_layers
    tail = max(depth // 2, model.audio.num_codebooks if model.audio else 0)
    layer_ids = (*full.layer_ids[: depth - tail], *full.layer_ids[model.num_hidden_layers - tail :])
    experts = None
    if member.num_experts:
        rows = model.num_hidden_layers + model.num_nextn_predict_layers
        experts = np.tile(np.arange(model.moe.num_experts) < member.num_experts, (rows, 1))
    return make_subnet(model, layer_ids, experts, member.top_k or full.top_k)
