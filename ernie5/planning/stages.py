"""Which layers a pipeline rank has, and what a token costs there."""

from dataclasses import dataclass
from functools import lru_cache

from ernie5.config.schema import ModelConfig


@dataclass(frozen=True)
class Piece:
    """A run of layers between two cuts."""

    dense_layers: int  # decoder layers with a dense MLP
    moe_layers: int  # decoder layers that route
    is_first: bool  # has the embedding and what sees media
    is_last: bool  # has the final norm, the head, the prediction block and what draws media and speaks

    @property
    def layers(self) -> int:
        return self.dense_layers + self.moe_layers


@dataclass(frozen=True)
class LayerFlops:
    """FLOPs of one token's forward pass in a part of the model; a multiply-add is 2."""

    matmul: float = 0.0  # dense products that tensor cuts
    whole: float = 0.0  # dense products that it does not: routers and the block's projection
    attention: float = 0.0  # scores and weighted values, causal
    experts: float = 0.0  # routed experts

    def __add__(self, other: "LayerFlops") -> "LayerFlops":
        sums = (getattr(self, name) + getattr(other, name) for name in ("matmul", "whole", "attention", "experts"))
        return LayerFlops(*sums)

    def times(self, factor: float) -> "LayerFlops":
        return LayerFlops(*(factor * getattr(self, name) for name in ("matmul", "whole", "attention", "experts")))

    @property
    def total(self) -> float:
        return self.matmul + self.whole + self.attention + self.experts


def layer_flops(model: ModelConfig, seq_len: int, routes: bool) -> LayerFlops:
    """One decoder layer: projections 4 * hidden * head_dim * (heads + kv_heads); scores and values 2 * width * seq_len
    (half the square); 6 * hidden * ffn for each gated MLP that a token passes; 2 * hidden * experts for the router."""
    attention, moe, hidden = model.attention, model.moe, model.hidden_size
    heads = attention.num_attention_heads + attention.num_key_value_heads
    projections = 4.0 * hidden * heads * attention.head_dim
    scores = 2.0 * attention.num_attention_heads * attention.head_dim * seq_len
    if not routes:
        return LayerFlops(projections + 6.0 * hidden * model.intermediate_size, 0.0, scores, 0.0)
    one = 6.0 * hidden * moe.moe_intermediate_size
    return LayerFlops(
        matmul=projections + moe.num_shared_experts * one,
        whole=2.0 * hidden * moe.num_experts,
        attention=scores,
        experts=moe.num_experts_per_tok * one,
    )


def tail_flops(model: ModelConfig, seq_len: int) -> LayerFlops:
    """What follows the last layer: the head, and for the prediction block a layer, 4 * hidden^2 and the head again."""
    head = LayerFlops(matmul=2.0 * model.hidden_size * model.vocab_size)
    if not model.num_nextn_predict_layers:
        return head
    block = layer_flops(model, seq_len, model.moe.num_experts > 0) + LayerFlops(whole=4.0 * model.hidden_size**2)
    return head + (head + block).times(model.num_nextn_predict_layers)


def piece_flops(model: ModelConfig, seq_len: int, piece: Piece) -> LayerFlops:
    """One token's forward pass through a piece."""
    layers = layer_flops(model, seq_len, False).times(piece.dense_layers)
    layers = layers + layer_flops(model, seq_len, True).times(piece.moe_layers)
    return layers + tail_flops(model, seq_len) if piece.is_last else layers


def layer_counts(model: ModelConfig, pieces: int, seq_len: int) -> list[int]:
    """The layers of each piece, by the rule of `cut_layers`; the last has all those that predict codes of audio."""
    layers = model.num_hidden_layers
    if pieces == 1:
        return [layers]
    routes = model.moe.num_experts > 0 and model.moe.num_dense_layers < layers
    tail = tail_flops(model, seq_len).total / layer_flops(model, seq_len, routes).total
    least = model.audio.num_codebooks if model.audio is not None else 0
    last = min(
        range(least, layers - pieces + 2),
        key=lambda last: (max(last + tail, -(-(layers - last) // (pieces - 1))), -last),
    )
    each, more = divmod(layers - last, pieces - 1)
    return [each + (i >= pieces - 1 - more) for i in range(pieces - 1)] + [last]


@lru_cache(maxsize=4096)
def cut_layers(model: ModelConfig, pipeline: int, virtual_stages: int, seq_len: int) -> tuple[tuple[Piece, ...], ...]:
    """The pieces of each pipeline rank: piece i of the model lies on rank i mod pipeline, in the order of the layers.

    The last piece has the head and the prediction block, which weigh as much as several layers; it gets so many layers
    that the heaviest piece is lightest. The others share the rest evenly, later ones taking what does not go round,
    because early ranks hold more activations.
    """
    pieces, layers = pipeline * virtual_stages, model.num_hidden_layers
    dense = layers if model.moe.num_experts == 0 else model.moe.num_dense_layers
    sizes = layer_counts(model, pieces, seq_len)
    cut, first = [], 0
    for i, size in enumerate(sizes):
        num_dense = min(max(dense - first, 0), size)
        cut.append(Piece(num_dense, size - num_dense, i == 0, i == pieces - 1))
        first += size
    return tuple(tuple(cut[rank::pipeline]) for rank in range(pipeline))
