"""What fills a GPU's memory, by cause, in bytes."""

from dataclasses import dataclass
from functools import lru_cache

from ernie5.planning.assumptions import GRADIENT_BUCKET_BYTES, LOGIT_CHUNK_BYTES, RUNTIME_BYTES, Policy
from ernie5.planning.case import Case
from ernie5.planning.layout import Layout
from ernie5.planning.routing import expected_groups
from ernie5.planning.schedule import pieces_in_flight
from ernie5.planning.stages import Piece
from ernie5.planning.tensors import RankParameters

ROUTER_BYTES = 4  # of its input, in float32 whatever the model is in
CHOICE_BYTES = 20  # of a token's choice: weight (4), expert and place in the sorted order (8 each)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one GPU at its fullest."""

    weights: float
    gradients: float
    optimizer: float  # master weights and two moments
    activations: float
    loss: float
    buffers: float
    runtime: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def rank_memory(case: Case, rank: int) -> Memory:
    """Memory of a GPU of pipeline rank `rank`.

    weights: every parameter once. gradients: every trained parameter once. optimizer: see `optimizer_bytes`.
    activations: for each forward pass in flight, what its piece keeps (`piece_activation_bytes`), and with full
    recompute one whole layer besides. loss: `loss_bytes`, on the last rank. buffers: `buffer_bytes`.
    """
    numbers, layout, parameters, pieces = case.bytes, case.layout, case.parameters(rank), case.pieces(rank)
    held = pieces_in_flight(layout.pipeline, layout.virtual_stages, case.microbatches, rank)
    kept = (piece_activation_bytes(case, piece) for piece in pieces)
    activations = sum(count * size for count, size in zip(held, kept, strict=True))
    if case.recomputes:
        activations += layer_activation_bytes(case, case.model.moe.num_experts > 0)
    return Memory(
        weights=float(parameters.total * numbers.weight),
        gradients=float((parameters.total - parameters.frozen) * numbers.gradient),
        optimizer=optimizer_bytes(parameters, layout, case.policy),
        activations=activations,
        loss=loss_bytes(case) if pieces[-1].is_last else 0.0,
        buffers=buffer_bytes(case),
        runtime=float(RUNTIME_BYTES),
    )


def optimizer_bytes(parameters: RankParameters, layout: Layout, policy: Policy) -> float:
    """Of the GPU that has most, state * what it owns. ZeRO-1 (arXiv:1910.02054): of each kind of parameters `sharding`
    neighbours on the data axis have an even share, to one element; of the experts', those that have the same experts.
    """
    return float(policy.bytes.state * _fullest(parameters, layout.sharding, layout.expert_sharding))


@lru_cache(maxsize=4096)
def _fullest(parameters: RankParameters, sharding: int, expert_sharding: int) -> int:
    """Parameters of the owner that has most."""
    dense, step = (parameters.cut, parameters.whole, parameters.tied), sharding // expert_sharding
    return max(
        sum(_share(size, sharding, i) for size in dense) + _share(parameters.experts, expert_sharding, i // step)
        for i in range(sharding)
    )


def _share(size: int, owners: int, owner: int) -> int:
    """Of a line of so many elements (`shares` in `parallel/runs.py`)."""
    return size * (owner + 1) // owners - size * owner // owners


def piece_activation_bytes(case: Case, piece: Piece) -> float:
    """What one forward pass through a piece leaves for its backward pass.

    No recompute: `layer_activation_bytes` of each layer. Full recompute: each layer's input, n / tensor * hidden * a.
    The last piece has the prediction block as one layer more, and the inputs of the final norms and heads.
    """
    dense, routing = case.layer_kinds((piece,))
    rows = case.row_bytes / case.layout.tensor
    ends = piece.is_last * (1 + case.model.num_nextn_predict_layers) * 2 * rows
    if case.recomputes:
        return (dense + routing) * rows + ends
    return routing * layer_activation_bytes(case, True) + dense * layer_activation_bytes(case, False) + ends


def layer_activation_bytes(case: Case, routes: bool) -> float:
    """What a decoder layer keeps without recompute. With a bytes an activation, m bytes an input of a feed-forward
    product, n = `case.tokens`:

    n / tensor * 2 * hidden * a                                  inputs of the two norms
    n * hidden * a                                               input of attention, of the whole tensor group
    n / tensor * (2 * heads * head_dim * a + 4 * heads)          queries, output, log-sum-exp
    n / tensor * context * 2 * kv_heads * head_dim * a           keys and values that are seen: of the whole row
    n * hidden * a + n / tensor * width * (2a + m)               dense or shared MLP: input, gate and up, their product
    n / tensor * 4 * (hidden + experts)                          router: input and scores, in float32
    n / tensor * top_k * (hidden * m + 2 * ffn * a + 20)         routed experts: rows, gate and up; ids and weights
    """
    model, numbers, tokens = case.model, case.bytes, case.tokens
    attention, moe, hidden = model.attention, model.moe, model.hidden_size
    own, heads = tokens / case.layout.tensor, attention.num_attention_heads
    seen = case.layout.context * attention.num_key_value_heads
    size = own * 2 * hidden * numbers.activation + tokens * hidden * numbers.activation
    size += own * (2 * (heads + seen) * attention.head_dim * numbers.activation + 4 * heads)
    if not routes:
        return size + _mlp_bytes(case, model.intermediate_size)
    size += own * 4 * (hidden + moe.num_experts)
    if moe.num_shared_experts:
        size += _mlp_bytes(case, moe.num_shared_experts * moe.moe_intermediate_size)
        if case.layout.tensor == 1 and numbers.activation == ROUTER_BYTES:  # the router reads the same
            size -= own * 4 * hidden
    row = hidden * numbers.mlp_input + 2 * moe.moe_intermediate_size * numbers.activation + CHOICE_BYTES
    return size + own * moe.num_experts_per_tok * row


def _mlp_bytes(case: Case, width: int) -> float:
    numbers, tokens = case.bytes, case.tokens
    gated = 2 * numbers.activation + numbers.mlp_input
    return tokens * case.model.hidden_size * numbers.activation + tokens / case.layout.tensor * width * gated


def loss_bytes(case: Case) -> float:
    """min(chunk, n * vocab / tensor * a) + vocab / tensor * hidden * gradient for each head, that of the prediction
    block too: a chunk's logits become their gradient in place, and the weight's gradient is made beside the loss."""
    model, vocab = case.model, case.model.vocab_size / case.layout.tensor
    chunk = min(LOGIT_CHUNK_BYTES, case.tokens * vocab * case.bytes.activation)
    return chunk + (1 + model.num_nextn_predict_layers) * vocab * model.hidden_size * case.bytes.gradient


def buffer_bytes(case: Case) -> float:
    """What is on its way, at most at once:

    4 * n / tensor * hidden * a        pipeline: sent and received, each way
    2 * n * hidden * a            tensor: gathered tokens and their gradient
    2 * n / tensor * ranks * hidden * a      experts: rows that leave and arrive; ranks: of a token, on average
    4 * n / tensor * context * kv_heads * head_dim * a       context: keys and values of the row, and their gradients
    2 * bucket                    data: fused gradients
    """
    layout, attention, moe, row = case.layout, case.model.attention, case.model.moe, case.row_bytes
    size = 4.0 * row / layout.tensor if layout.pipeline > 1 else 0.0
    size += 2.0 * row if layout.tensor > 1 else 0.0
    if layout.expert > 1:
        ranks = expected_groups(moe.num_experts, moe.num_experts_per_tok, layout.expert)
        size += 2.0 * row / layout.tensor * ranks
    if layout.context > 1:
        width = attention.num_key_value_heads * attention.head_dim
        size += 4.0 * case.tokens * layout.context / layout.tensor * width * case.bytes.activation
    return size + (2.0 * GRADIENT_BUCKET_BYTES if layout.stage_gpus > 1 else 0.0)
