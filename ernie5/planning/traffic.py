"""What a GPU sends in a step, by group of GPUs, in bytes, beside the least that its layout needs."""

from dataclasses import dataclass

from ernie5.planning.assumptions import Policy
from ernie5.planning.case import Case
from ernie5.planning.cluster import Cluster
from ernie5.planning.layout import Layout
from ernie5.planning.routing import expected_groups
from ernie5.planning.stages import Piece
from ernie5.planning.tensors import RankParameters

ID_BYTES, WEIGHT_BYTES = 8, 4  # of a chosen expert, which travel with a row: int64 and float32


@dataclass(frozen=True)
class Flow:
    """What one GPU sends to the others of a group in a step."""

    intra: float = 0.0  # bytes to GPUs of its node
    inter: float = 0.0  # bytes to other nodes
    least: float = 0.0  # bytes that suffice: nothing sent twice, no ids, no recompute
    messages: float = 0.0  # steps of collectives that wait for each other

    @property
    def total(self) -> float:
        return self.intra + self.inter

    def __add__(self, other: "Flow") -> "Flow":
        return Flow(*(getattr(self, name) + getattr(other, name) for name in ("intra", "inter", "least", "messages")))

    def times(self, factor: float) -> "Flow":
        return Flow(*(factor * getattr(self, name) for name in ("intra", "inter", "least", "messages")))


def rank_traffic(case: Case, cluster: Cluster, rank: int) -> dict[str, Flow]:
    """tensor, context, expert, pipeline, data -> what a GPU of pipeline rank `rank` sends."""
    layout, parameters, pieces, node = case.layout, case.parameters(rank), case.pieces(rank), cluster.gpus_per_node
    dense, routing = case.layer_kinds(pieces)
    return {
        "tensor": _tensor(case, pieces).times(case.microbatches),
        "context": _context(case, node).times(case.microbatches * (dense + routing)),
        "expert": _expert(case, node).times(case.microbatches * routing),
        "pipeline": _pipeline(case, node, pieces).times(case.microbatches),
        "data": _data(layout, case.policy, node, parameters),
    }


def _tensor(case: Case, pieces: tuple[Piece, ...]) -> Flow:
    """A forward and a backward pass. Attention, and each dense or shared MLP: 4 halves of an all-reduce by a ring,
    (tensor - 1) / tensor * n * hidden * a: the tokens are gathered and what is made of them scattered, and in the
    backward pass their gradients; full recompute: the forward two again. Each head: 2 halves, the tokens and their
    gradients; labels and weights (12 bytes) of tokens, and the largest logit and two sums (12 bytes) of each, which all
    tell all. Routed experts have tokens of their own, and the embedding is whole.
    """
    tensor = case.layout.tensor
    dense, routing = case.layer_kinds(pieces)
    products = dense + routing + dense + routing * (case.model.moe.num_shared_experts > 0)
    heads = (1 + case.model.num_nextn_predict_layers) * pieces[-1].is_last
    half = (tensor - 1) / tensor * case.row_bytes
    numbers = (tensor - 1) * case.tokens * (12 / tensor + 12)
    least = (4 * products + 2 * heads) * half
    halves = products * (4 + 2 * case.recomputes) + 2 * heads
    return Flow(intra=halves * half + heads * numbers, least=least, messages=halves * (tensor - 1))


def _context(case: Case, node: int) -> Flow:
    """A layer's two passes over rows that are one document each; shorter ones send less.

    Of 2 * context chunks of a row a GPU has chunk i and its mirror image. The first goes to all others, the second to
    those whose last chunk is behind it, half of them on average: 3 / 4 * (context - 1) / context of a row's keys and
    values, 2 * kv_heads * head_dim / tensor * a. Their gradients come back; full recompute: the forward part again.
    """
    layout, attention = case.layout, case.model.attention
    width = 2 * attention.num_key_value_heads * attention.head_dim / layout.tensor
    unit = 0.75 * (layout.context - 1) * case.tokens * width * case.bytes.activation
    times = 2 + case.recomputes
    flow = Flow(intra=times * unit, least=2 * unit, messages=float(times * (layout.context > 1)))
    return flow if layout.context * layout.tensor <= node else Flow(0.0, flow.intra, flow.least, flow.messages)


def _expert(case: Case, node: int) -> Flow:
    """A layer's two passes. A GPU has n / tensor tokens of its own. Each goes to some of the expert ranks, on average
    `expected_groups` of them, all but one in `expert` on another GPU, and to each travel four rows of hidden numbers:

    forward: the row with top_k ids and weights, and the sum back; backward: the sum's gradient, and the row's gradient
    back with those of the weights. Before, 8 bytes of count to each rank. Full recompute: the forward part again.

    Dispatch "node": what leaves the node crosses once for each node that has any of the token's experts, and is
    handed on there to the GPUs that need it, over their links.
    """
    ranks = case.layout.expert
    if ranks == 1:
        return Flow()
    hidden, moe, numbers = case.model.hidden_size, case.model.moe, case.bytes
    tokens, near, top_k = case.tokens / case.layout.tensor, min(ranks, node), moe.num_experts_per_tok
    rows = tokens * expected_groups(moe.num_experts, top_k, ranks)
    forward = hidden * (numbers.mlp_input + numbers.activation) + top_k * (ID_BYTES + WEIGHT_BYTES)
    backward = 2 * hidden * numbers.activation + top_k * WEIGHT_BYTES
    passes = 1 + case.recomputes
    size = passes * forward + backward
    away, far = rows * (ranks - 1) / ranks, rows * (ranks - near) / ranks
    if case.policy.dispatch == "node":
        nodes = ranks // near
        far = tokens * expected_groups(moe.num_experts, top_k, nodes) * (nodes - 1) / nodes
    counts = passes * ID_BYTES
    return Flow(
        intra=(away - far) * size + (near - 1) * counts,
        inter=far * size + (ranks - near) * counts,
        least=away * hidden * (numbers.mlp_input + 3 * numbers.activation),
        messages=4.0 + 3.0 * (passes - 1),
    )


def _pipeline(case: Case, node: int, pieces: tuple[Piece, ...]) -> Flow:
    """A microbatch: n / tensor * hidden * a forward from every piece but the last, and as much back from every one but
    the first."""
    layout = case.layout
    if layout.pipeline == 1:
        return Flow()
    sends = sum(not piece.is_last for piece in pieces) + sum(not piece.is_first for piece in pieces)
    size = sends * case.row_bytes / layout.tensor
    is_near = layout.gpus <= node
    return Flow(size * is_near, size * (not is_near), size, float(sends))


def _data(layout: Layout, policy: Policy, node: int, parameters: RankParameters) -> Flow:
    """Gradients and weights: of matrices over data x context, of what is whole over the stage, of what both ends of the
    pipeline have over both, of experts over what replicates them."""
    near = (
        zero_traffic(parameters.cut, layout.dense_replicas, layout.sharding, policy)
        + zero_traffic(parameters.whole, layout.stage_gpus, layout.sharding, policy)
        + zero_traffic(parameters.experts, layout.expert_replicas, layout.expert_sharding, policy)
    )
    if layout.stage_gpus > node:
        near = Flow(0.0, near.intra, near.least, near.messages)
    both = zero_traffic(parameters.tied, 2 * layout.stage_gpus, layout.sharding, policy)
    return near + (both if layout.gpus <= node else Flow(0.0, both.intra, both.least, both.messages))


def zero_traffic(parameters: int, replicas: int, sharding: int, policy: Policy) -> Flow:
    """One GPU's bytes for gradients and weights of ZeRO-1 by rings, with r = replicas / sharding:

    (sharding - 1) / sharding * gradients           reduce-scatter
    2 * (r - 1) / r * gradients / sharding          all-reduce of a shard over the groups that have it
    (sharding - 1) / sharding * weights             all-gather

    Least: (replicas - 1) / replicas * (gradients + weights).
    """
    if replicas == 1:
        return Flow()
    gradients, weights = parameters * policy.bytes.gradient, parameters * policy.bytes.weight
    groups, rest = replicas // sharding, (sharding - 1) / sharding
    sent = rest * (gradients + weights) + 2 * (groups - 1) / groups * gradients / sharding
    steps = 2 * (sharding - 1) + 2 * (groups - 1)
    return Flow(intra=sent, least=(replicas - 1) / replicas * (gradients + weights), messages=float(steps))
