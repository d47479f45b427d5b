"""One way to train a model: what is trained, how it lies on the GPUs, and how it is run."""

from dataclasses import dataclass

from ernie5.config.schema import ModelConfig, StageConfig
from ernie5.planning.assumptions import Bytes, Policy
from ernie5.planning.layout import Layout, microbatches
from ernie5.planning.stages import Piece, cut_layers
from ernie5.planning.tensors import RankParameters, rank_parameters


@dataclass(frozen=True)
class Case:
    """A layout that breaks no rule, with all that its cost depends on except the cluster."""

    model: ModelConfig
    stage: StageConfig
    layout: Layout
    policy: Policy

    @property
    def bytes(self) -> Bytes:
        return self.policy.bytes

    @property
    def recomputes(self) -> bool:
        return self.policy.recompute == "full"

    @property
    def microbatches(self) -> int:
        """Forward passes of a GPU in a step."""
        return microbatches(self.layout, self.stage)

    @property
    def tokens(self) -> float:
        """n: tokens of a forward pass that the GPUs of a tensor group share: rows * seq_len / context."""
        return self.stage.micro_batch_rows * self.stage.max_seq_len / self.layout.context

    @property
    def row_bytes(self) -> float:
        """Bytes of those tokens' hidden states, n * hidden * a."""
        return self.tokens * self.model.hidden_size * self.bytes.activation

    @property
    def ranks(self) -> tuple[int, ...]:
        """The first pipeline rank of each kind: later ones with the same pieces do the same, and hold fewer
        activations."""
        cut = self._cut()
        return tuple(rank for rank in range(len(cut)) if cut[rank] not in cut[:rank])

    def pieces(self, rank: int) -> tuple[Piece, ...]:
        """Those of a pipeline rank."""
        return self._cut()[rank]

    def parameters(self, rank: int) -> RankParameters:
        """Of a GPU of a pipeline rank."""
        return rank_parameters(self.model, self.layout, self.stage.max_seq_len, rank)

    def layer_kinds(self, pieces: tuple[Piece, ...]) -> tuple[int, int]:
        """(layers with a dense MLP, layers that route) in these pieces, the prediction block among them."""
        dense, routing = sum(piece.dense_layers for piece in pieces), sum(piece.moe_layers for piece in pieces)
        blocks = self.model.num_nextn_predict_layers * any(piece.is_last for piece in pieces)
        return (dense, routing + blocks) if self.model.moe.num_experts else (dense + blocks, routing)

    def _cut(self) -> tuple[tuple[Piece, ...], ...]:
        return cut_layers(self.model, self.layout.pipeline, self.layout.virtual_stages, self.stage.max_seq_len)
