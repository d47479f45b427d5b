"""What fills a GPU's memory, by cause, in bytes."""

from dataclasses import dataclass

from ernie5.config.schema import ModelConfig, StageConfig
from ernie5.planning.assumptions import GRADIENT_BUCKET_BYTES, LOGIT_CHUNK_BYTES, RUNTIME_BYTES, Policy
from ernie5.planning.layout import Layout, microbatches
from ernie5.planning.routing import expected_groups
from ernie5.planning.schedule import pieces_in_flight
from ernie5.planning.stages import Piece, RankParameters, cut_layers, rank_parameters


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


def rank_tokens(layout: Layout, stage: StageConfig) -> float:
    """Tokens of a forward pass on a GPU whose tensor group shares them all: rows * seq_len / context."""
    return stage.micro_batch_rows * stage.max_seq_len / layout.context


def rank_memory(model: ModelConfig, stage: StageConfig, layout: Layout, policy: Policy, rank: int) -> Memory:
    """Memory of a GPU of pipeline rank `rank`.

    weights: every parameter once. gradients: every trained parameter once. optimizer: see `optimizer_bytes`.
    activations: for each forward pass in flight, what its piece keeps (`piece_activation_bytes`), and with full
    recompute one whole layer besides. loss: `loss_bytes`, on the last rank. buffers: `buffer_bytes`.
    """
    numbers, parameters = policy.bytes, rank_parameters(model, layout, stage.max_seq_len, rank)
    pieces = cut_layers(model, layout.pipeline, layout.virtual_stages, stage.max_seq_len)[rank]
    held = pieces_in_flight(layout.pipeline, layout.virtual_stages, microbatches(layout, stage), rank)
    kept = (piece_activation_bytes(model, stage, layout, policy, piece) for piece in pieces)
    activations = sum(count * size for count, size in zip(held, kept, strict=True))
    if policy.recompute == "full":
        activations += layer_activation_bytes(model, stage, layout, policy, model.moe.num_experts > 0)
    return Memory(
        weights=float(parameters.total * numbers.weight),
        gradients=float((parameters.total - parameters.frozen) * numbers.gradient),
        optimizer=optimizer_bytes(parameters, layout, policy),
        activations=activations,
        loss=loss_bytes(model, stage, layout, policy) if pieces[-1].is_last else 0.0,
        buffers=buffer_bytes(model, stage, layout, policy),
        runtime=float(RUNTIME_BYTES),
    )


def optimizer_bytes(parameters: RankParameters, layout: Layout, policy: Policy) -> float:
    """state * ((cut + whole) / sharding + experts / expert_sharding).

    ZeRO-1 (arXiv:1910.02054): what attention and dense layers need is spread over `sharding` of the data ranks, what
    the experts need over those that have the same experts.
    """
    dense = (parameters.cut + parameters.whole) / layout.sharding
    return policy.bytes.state * (dense + parameters.experts / layout.expert_sharding)


def piece_activation_bytes(
    model: ModelConfig, stage: StageConfig, layout: Layout, policy: Policy, piece: Piece
) -> float:
    """What one forward pass through a piece leaves for its backward pass.

    No recompute: `layer_activation_bytes` of each layer. Full recompute: each layer's input, tokens * hidden, over
    `tensor` with sequence parallelism. The last piece has the prediction block as one layer more, and the inputs of the
    final norms and heads.
    """
    blocks = model.num_nextn_predict_layers if piece.is_last else 0
    routing = piece.moe_layers + (blocks if model.moe.num_experts else 0)
    rows = rank_tokens(layout, stage) / layout.token_split * model.hidden_size * policy.bytes.activation
    ends = piece.is_last * (1 + blocks) * 2 * rows
    if policy.recompute == "full":
        return (piece.layers + blocks) * rows + ends
    dense = piece.layers + blocks - routing
    whole = routing * layer_activation_bytes(model, stage, layout, policy, True) if routing else 0.0
    return whole + (dense * layer_activation_bytes(model, stage, layout, policy, False) if dense else 0.0) + ends


def layer_activation_bytes(
    model: ModelConfig, stage: StageConfig, layout: Layout, policy: Policy, routes: bool
) -> float:
    """What a decoder layer keeps without recompute. With a bytes an activation, m bytes an input of a feed-forward
    product, n = tokens, s = tensor with sequence parallelism, else 1:

    n / s * 4 * hidden * a                                       inputs and outputs of the two norms
    n / tensor * (2 * (heads + kv_heads) * head_dim * a + 4 * heads)      q, k, v, output, log-sum-exp
    n / tensor * width * (2a + m)                                dense or shared MLP: gate and up, their product
    n / s * 4 * experts                                          the router's scores
    n / tensor * top_k * (hidden * m + ffn * (2a + m))           routed experts: rows, gate and up, their product
    """
    attention, moe, numbers = model.attention, model.moe, policy.bytes
    tokens = rank_tokens(layout, stage)
    between, own = tokens / layout.token_split, tokens / layout.tensor
    gated = 2 * numbers.activation + numbers.mlp_input
    heads = attention.num_attention_heads + attention.num_key_value_heads
    size = between * 4 * model.hidden_size * numbers.activation
    size += own * (2 * heads * attention.head_dim * numbers.activation + 4 * attention.num_attention_heads)
    if not routes:
        return size + own * model.intermediate_size * gated
    size += own * moe.num_shared_experts * moe.moe_intermediate_size * gated + between * 4 * moe.num_experts
    row = model.hidden_size * numbers.mlp_input + moe.moe_intermediate_size * gated
    return size + own * moe.num_experts_per_tok * row


def loss_bytes(model: ModelConfig, stage: StageConfig, layout: Layout, policy: Policy) -> float:
    """min(chunk, n * vocab / tensor * a) + vocab / tensor * hidden * gradient for each head, that of the prediction
    block too: a chunk's logits become their gradient in place, and the weight's gradient is made beside the loss."""
    vocab = model.vocab_size / layout.tensor
    chunk = min(LOGIT_CHUNK_BYTES, rank_tokens(layout, stage) * vocab * policy.bytes.activation)
    return chunk + (1 + model.num_nextn_predict_layers) * vocab * model.hidden_size * policy.bytes.gradient


def buffer_bytes(model: ModelConfig, stage: StageConfig, layout: Layout, policy: Policy) -> float:
    """What is on its way, at most at once:

    4 * n / s * hidden * a        pipeline: sent and received, each way
    2 * n * hidden * a            tensor: gathered tokens and their gradient
    2 * n / tensor * ranks * hidden * a      experts: rows that leave and arrive; ranks: of a token, on average
    4 * n / tensor * context * kv_heads * head_dim * a       context: keys and values of the row, and their gradients
    2 * bucket                    data: fused gradients
    """
    numbers, tokens = policy.bytes, rank_tokens(layout, stage)
    row = tokens * model.hidden_size * numbers.activation
    size = 4.0 * row / layout.token_split if layout.pipeline > 1 else 0.0
    size += 2.0 * row if layout.tensor > 1 else 0.0
    if layout.expert > 1:
        moe = model.moe
        ranks = expected_groups(moe.num_experts, moe.num_experts_per_tok, layout.expert)
        size += 2.0 * row / layout.tensor * ranks
    if layout.context > 1:
        width = model.attention.num_key_value_heads * model.attention.head_dim
        size += 4.0 * tokens * layout.context / layout.tensor * width * numbers.activation
    return size + (2.0 * GRADIENT_BUCKET_BYTES if layout.stage_gpus > 1 else 0.0)
