"""The parameters that lie on a GPU, by who else has them. Sizes of tensors alone: nothing is built."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache

from ernie5.config.schema import ModelConfig, VisionConfig
from ernie5.planning.layout import Layout
from ernie5.planning.parameters import count_parameters
from ernie5.planning.stages import Piece, cut_layers


@dataclass(frozen=True)
class RankParameters:
    """Parameters on one GPU."""

    cut: int  # its share of what tensor cuts: attention, dense and shared MLPs, the head
    whole: int  # that each GPU of a stage has whole: norms, routers, biases after a sum, the block's projection, media
    tied: int  # whole, and on the first and the last rank of a pipeline: the embedding, the tables of codes
    experts: int  # its routed experts, each whole
    frozen: int  # not trained: the vision encoder

    @property
    def total(self) -> int:
        return self.cut + self.whole + self.tied + self.experts + self.frozen


def rank_parameters(model: ModelConfig, layout: Layout, seq_len: int, rank: int) -> RankParameters:
    """Those of a GPU of pipeline rank `rank`, its pieces together.

    The sum over the ranks of a pipeline, tensor and expert group, what is `whole` and `tied` counted once, is
    `count_parameters(model).total`.
    """
    pieces = cut_layers(model, layout.pipeline, layout.virtual_stages, seq_len)[rank]
    degrees = Layout(pipeline=min(layout.pipeline, 2), tensor=layout.tensor, expert=layout.expert)  # all that matters
    return _parameters(model, pieces, degrees)


@lru_cache(maxsize=4096)
def _parameters(model: ModelConfig, pieces: tuple[Piece, ...], layout: Layout) -> RankParameters:
    sizes = {field.name: 0 for field in fields(RankParameters)}
    for piece in pieces:
        for kind, size in _piece(model, piece, layout):
            sizes[kind] += size
    return RankParameters(**sizes)


def _piece(model: ModelConfig, piece: Piece, layout: Layout) -> Iterator[tuple[str, int]]:
    """(kind, size) of each tensor."""
    for i in range(piece.layers):
        yield from _layer(model, layout, i >= piece.dense_layers)
    hidden, vision, audio = model.hidden_size, model.vision, model.audio
    embeds_twice = model.tie_word_embeddings or model.num_nextn_predict_layers > 0
    both = "tied" if layout.pipeline > 1 else "whole"
    if piece.is_first or (piece.is_last and embeds_twice):
        yield both if embeds_twice else "whole", model.vocab_size * hidden
    if (piece.is_first or piece.is_last) and audio is not None:
        yield from ((both, (audio.codebook_size + 1) * hidden) for _ in range(audio.num_codebooks))
    if piece.is_first and vision is not None:
        scales = max(len(resolution.scales) for resolution in vision.resolutions)
        seen = (*_seeing(vision, hidden), vision.max_bits * hidden, scales * hidden)
        yield from (("whole", size) for size in seen)
        yield "frozen", count_parameters(model).vision_cnn
    if piece.is_first and audio is not None and audio.speaker_dim:
        yield "whole", audio.speaker_dim * hidden
    if piece.is_last:
        yield from _behind(model, layout)


def _behind(model: ModelConfig, layout: Layout) -> Iterator[tuple[str, int]]:
    """The last norm, the heads and the prediction block."""
    hidden, vision, audio = model.hidden_size, model.vision, model.audio
    yield "whole", hidden
    if not model.tie_word_embeddings:
        yield _cut(layout), hidden * model.vocab_size // layout.tensor
    for _ in range(model.num_nextn_predict_layers):
        yield from (("whole", size) for size in (hidden, hidden, hidden, 2 * hidden * hidden))
        yield from _layer(model, layout, model.moe.num_experts > 0)
    if vision is not None:
        yield from (("whole", size) for size in (vision.max_bits * hidden, vision.max_bits))
    if audio is not None:
        for _ in range(audio.num_codebooks):
            yield from (("whole", size) for size in (hidden, (audio.codebook_size + 1) * hidden))


def _layer(model: ModelConfig, layout: Layout, routes: bool) -> Iterator[tuple[str, int]]:
    """A decoder layer: norms, attention, and a dense MLP or router, experts and shared experts."""
    cut = _cut(layout)
    attention, moe, hidden, tensor = model.attention, model.moe, model.hidden_size, layout.tensor
    heads = (attention.num_attention_heads, attention.num_key_value_heads, attention.num_key_value_heads)
    widths = [count * attention.head_dim // tensor for count in heads]  # of queries, keys, values
    yield from (("whole", hidden) for _ in range(2))
    yield from ((cut, hidden * width) for width in (*widths, widths[0]))
    if attention.use_bias:
        yield from ((cut, width) for width in widths)
        yield "whole", hidden
    width = moe.num_shared_experts * moe.moe_intermediate_size if routes else model.intermediate_size
    if width:
        yield from ((cut, hidden * width // tensor) for _ in range(3))
    if routes:
        yield "whole", hidden * moe.num_experts
        matrix = moe.num_experts // layout.expert * hidden * moe.moe_intermediate_size
        yield from (("experts", size) for size in (2 * matrix, matrix))


def _cut(layout: Layout) -> str:
    """The kind of what tensor cuts; where it does not, those have it who have the rest."""
    return "cut" if layout.tensor > 1 else "whole"


def _seeing(vision: VisionConfig, hidden: int) -> Iterator[int]:
    """What makes tokens of pictures: the transformer, and the merger of both paths."""
    width, vit = vision.vit.hidden_size, vision.vit
    if vision.understanding_path != "cnn":
        yield from (3 * vision.encoder.temporal_stride * vision.encoder.stride**2 * width, width)
        for _ in range(vit.num_hidden_layers):
            yield from (width, width, *([width * width] * 4), *([width * vit.intermediate_size] * 3))
        yield width
    if vision.understanding_path != "vit":
        yield vision.encoder.channels[-1] * width
    yield from (width, 3 * width * width, width * width, width * hidden)
