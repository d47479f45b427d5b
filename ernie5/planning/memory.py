"""What fills a GPU's memory, by cause, in bytes."""

from dataclasses import dataclass

from ernie5.planning.assumptions import GRADIENT_BUCKET_BYTES, LOGIT_CHUNK_BYTES, RUNTIME_BYTES, Policy
from ernie5.planning.case import Case
from ernie5.planning.layout import Layout
from ernie5.planning.routing import expected_groups
from ernie5.planning.schedule import pieces_in_flight
from ernie5.planning.stages import Piece, RankParameters


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
    """state * ((cut + whole + tied) / sharding + experts / expert_sharding).

    ZeRO-1 (arXiv:1910.02054): what attention and dense layers need is spread over `sharding` of the data ranks, what
    the experts need over those that have the same experts.
    """
    dense = (parameters.cut + parameters.whole + parameters.tied) / layout.sharding
    return policy.bytes.state * (dense + parameters.experts / layout.expert_sharding)


def piece_activation_bytes(case: Case, piece: Piece) -> float:
    """What one forward pass through a piece leaves for its backward pass.

    No recompute: `layer_activation_bytes` of each layer. Full recompute: each layer's input, tokens * hidden, over
    `tensor` with sequence parallelism. The last piece has the prediction block as one layer more, and the inputs of the
    final norms and heads.
    """
    dense, routing = case.layer_kinds((piece,))
    rows = case.row_bytes / case.layout.tensor
    ends = piece.is_last * (1 + case.model.num_nextn_predict_layers) * 2 * rows
    if case.recomputes:
        return (dense + routing) * rows + ends
    return routing * layer_activation_bytes(case, True) + dense * layer_activation_bytes(case, False) + ends


def layer_activation_bytes(case: Case, routes: bool) -> float:
    """What a decoder layer keeps without recompute. With a bytes an activation, m bytes an input of a feed-forward
    product, n = `case.tokens`, s = tensor with sequence parallelism, else 1:

    n / s * 4 * hidden * a                                       inputs and outputs of the two norms
    n / tensor * (2 * (heads + kv_heads) * head_dim * a + 4 * heads)      q, k, v, output, log-sum-exp
    n / tensor * width * (2a + m)                                dense or shared MLP: gate and up, their product
    n / s * 4 * experts                                          the router's scores
    n / tensor * top_k * (hidden * m + ffn * (2a + m))           routed experts: rows, gate and up, their product
    """
    model, numbers = case.model, case.bytes
    attention, moe = model.attention, model.moe
    between, own = case.tokens / case.layout.tensor, case.tokens / case.layout.tensor
    gated = 2 * numbers.activation + numbers.mlp_input
    heads = attention.num_attention_heads + attention.num_key_value_heads
    size = between * 4 * model.hidden_size * numbers.activation
    size += own * (2 * heads * attention.head_dim * numbers.activation + 4 * attention.num_attention_heads)
    if not routes:
        return size + own * model.intermediate_size * gated
    size += own * moe.num_shared_experts * moe.moe_intermediate_size * gated + between * 4 * moe.num_experts
    row = model.hidden_size * numbers.mlp_input + moe.moe_intermediate_size * gated
    return size + own * moe.num_experts_per_tok * row


def loss_bytes(case: Case) -> float:
    """min(chunk, n * vocab / tensor * a) + vocab / tensor * hidden * gradient for each head, that of the prediction
    block too: a chunk's logits become their gradient in place, and the weight's gradient is made beside the loss."""
    model, vocab = case.model, case.model.vocab_size / case.layout.tensor
    chunk = min(LOGIT_CHUNK_BYTES, case.tokens * vocab * case.bytes.activation)
    return chunk + (1 + model.num_nextn_predict_layers) * vocab * model.hidden_size * case.bytes.gradient


def buffer_bytes(case: Case) -> float:
    """What is on its way, at most at once:

    4 * n / s * hidden * a        pipeline: sent and received, each way
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
