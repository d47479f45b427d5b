"""What a GPU sends in a step, by group of GPUs, in bytes, beside the least that its layout needs."""

from dataclasses import dataclass

from ernie5.planning.assumptions import Policy
from ernie5.planning.case import Case
from ernie5.planning.cluster import Cluster
from ernie5.planning.layout import Layout
from ernie5.planning.routing import expected_groups
from ernie5.planning.stages import Piece

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
    tensor = _tensor(case, pieces).times(case.microbatches)
    if layout.sequence_parallel:  # each GPU has the gradients of norms and routers for its tokens alone
        tensor = tensor + _all_reduce(parameters.whole * case.bytes.gradient, layout.tensor)
    copies = parameters.embedding_copy + _copied_elsewhere(case, rank)
    return {
        "tensor": tensor,
        "context": _context(case, node).times(case.microbatches * (dense + routing)),
        "expert": _expert(case, node).times(case.microbatches * routing),
        "pipeline": _pipeline(case, node, pieces).times(case.microbatches),
        "data": _data(layout, case.policy, node, parameters.cut + parameters.whole, parameters.experts)
        + _far(copies * case.bytes.gradient, layout, node),
    }


def _tensor(case: Case, pieces: tuple[Piece, ...]) -> Flow:
    """A forward and a backward pass, in halves of an all-reduce by a ring, (tensor - 1) / tensor * n * hidden * a:

    Attention, and each dense or shared MLP: forward 2, backward 2 (two all-reduces, or with sequence parallelism two
    pairs of all-gather and reduce-scatter) and, with it, 1 more to gather the input again for the weights' gradient.
    Routed experts without sequence parallelism: each GPU sends its share of the tokens to the experts, so the sum is
    gathered, 1, and its gradient too, 1; with it none, the tokens being cut already.
    Embedding and each head: 2. Full recompute: the forward part of a layer again.
    """
    tensor, split, again = case.layout.tensor, case.layout.sequence_parallel, case.recomputes
    dense, routing = case.layer_kinds(pieces)
    products = dense + routing + dense + routing * (case.model.moe.num_shared_experts > 0)
    gathers = 0 if split else routing
    ends = pieces[0].is_first + (1 + case.model.num_nextn_predict_layers) * pieces[-1].is_last
    halves = products * (4 + split + 2 * again) + gathers * (2 + again) + 2 * ends
    least = 4 * products + 2 * gathers + 2 * ends
    half = (tensor - 1) / tensor * case.row_bytes
    return Flow(intra=halves * half, least=least * half, messages=halves * (tensor - 1))


def _context(case: Case, node: int) -> Flow:
    """A layer's two passes. Keys and values, n / tensor * 2 * kv_heads * head_dim * a, go to context - 1 others: in the
    forward pass, again in the backward pass, where their gradients come back, and once more when recomputed."""
    layout, attention = case.layout, case.model.attention
    width = 2 * attention.num_key_value_heads * attention.head_dim
    unit = (layout.context - 1) * case.tokens / layout.tensor * width * case.bytes.activation
    times = 3 + case.recomputes
    flow = Flow(intra=times * unit, least=2 * unit, messages=times * (layout.context - 1))
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
    """A microbatch: n / s * hidden * a forward from every piece but the last, and as much back from every one but the
    first. Least: each GPU of a tensor group sends its share, whatever s is."""
    layout = case.layout
    if layout.pipeline == 1:
        return Flow()
    sends = sum(not piece.is_last for piece in pieces) + sum(not piece.is_first for piece in pieces)
    size = sends * case.row_bytes
    flow = _far(size / layout.token_split, layout, node)
    return Flow(flow.intra, flow.inter, size / layout.tensor, float(sends))


def _data(layout: Layout, policy: Policy, node: int, dense: int, experts: int) -> Flow:
    """Gradients of `dense` parameters over data x context, those of the experts over what replicates them."""
    dense_flow = zero_traffic(dense, layout.dense_replicas, layout.sharding, policy)
    expert_flow = zero_traffic(experts, layout.expert_replicas, layout.expert_sharding, policy)
    flow = dense_flow + expert_flow
    return flow if layout.stage_gpus <= node else Flow(0.0, flow.intra, flow.least, flow.messages)


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


def _all_reduce(size: float, ranks: int) -> Flow:
    sent = 2 * (ranks - 1) / ranks * size
    return Flow(intra=sent, least=sent, messages=2.0 * (ranks - 1))


def _far(size: float, layout: Layout, node: int) -> Flow:
    """What goes to another pipeline rank: within the node where the whole pipeline is in one."""
    return Flow(intra=size, least=size) if layout.gpus <= node else Flow(inter=size, least=size)


def _copied_elsewhere(case: Case, rank: int) -> int:
    """Parameters of the first rank's share of the embedding, if the last has a copy: their gradients are summed."""
    return case.parameters(case.layout.pipeline - 1).embedding_copy if rank == 0 else 0
