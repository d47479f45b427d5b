"""How a model lies on the GPUs of a cluster, and why it cannot lie so."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import gcd

from ernie5.config.schema import ModelConfig, StageConfig
from ernie5.errors import UserError
from ernie5.planning.cluster import Cluster


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Degrees as in `parallel:` of a run, and `data`. Ranks are numbered tensor fastest, context, data, pipeline."""

    tensor: int = 1
    pipeline: int = 1
    virtual_stages: int = 1
    expert: int = 1
    context: int = 1
    sharding: int = 1
    data: int = 1

    @property
    def gpus(self) -> int:
        return self.pipeline * self.stage_gpus

    @property
    def stage_gpus(self) -> int:
        """GPUs of a pipeline stage, over which the experts are spread."""
        return self.data * self.context * self.tensor

    @property
    def pieces(self) -> int:
        """Runs of layers that the model is cut into."""
        return self.pipeline * self.virtual_stages

    @property
    def dense_replicas(self) -> int:
        """GPUs with the same part of attention and dense layers."""
        return self.data * self.context

    @property
    def expert_replicas(self) -> int:
        """GPUs with the same experts."""
        return self.stage_gpus // self.expert

    @property
    def expert_sharding(self) -> int:
        """Replicas of the experts over which their optimizer state is spread: those among `sharding` neighbours."""
        step = self.expert // gcd(self.expert, self.context * self.tensor)  # on the data axis from one to the next
        return self.sharding // step if self.sharding % step == 0 else 1

    def __str__(self) -> str:
        names = {"tensor": "TP", "pipeline": "PP", "virtual_stages": "VPP", "expert": "EP", "context": "CP"}
        degrees = [f"{short}{getattr(self, name)}" for name, short in names.items() if getattr(self, name) > 1]
        return " ".join([*degrees, f"DP{self.data}", f"ZeRO{self.sharding}"])


def parse_layout(text: str, cluster: Cluster) -> Layout:
    """`tensor=4,pipeline=12,expert=64` -> Layout.

    Left out: data is what the GPUs leave, sharding is data (ZeRO-1), the rest 1.
    """
    known = {field.name: field.type for field in fields(Layout)}
    degrees: dict[str, int] = {}
    for entry in filter(None, text.split(",")):
        name, _, value = (part.strip() for part in entry.partition("="))
        if name not in known:
            raise UserError(f"--layout {text}: there is no degree {name!r}: choose from {', '.join(known)}")
        if not (value.isascii() and value.isdigit() and int(value) > 0):
            raise UserError(f"--layout {text}: {name} is {value!r}: must be a whole number above 0")
        degrees[name] = int(value)
    others = degrees.get("tensor", 1) * degrees.get("pipeline", 1) * degrees.get("context", 1)
    degrees.setdefault("data", max(cluster.gpus // others, 1))
    degrees.setdefault("sharding", degrees["data"])
    return Layout(**degrees)


def microbatches(layout: Layout, stage: StageConfig) -> int:
    """Forward passes of a GPU in a step."""
    return stage.batch_tokens // (stage.max_seq_len * stage.micro_batch_rows * layout.data)


Rule = Callable[[Layout, ModelConfig, StageConfig, Cluster], str | None]


def refusals(layout: Layout, model: ModelConfig, stage: StageConfig, cluster: Cluster) -> dict[str, str]:
    """The rules that a layout breaks: name -> one sentence. Empty: it can be built, memory aside."""
    found = {name: rule(layout, model, stage, cluster) for name, rule in RULES.items()}
    return {name: sentence for name, sentence in found.items() if sentence}


def first_refusal(layout: Layout, model: ModelConfig, stage: StageConfig, cluster: Cluster) -> str | None:
    """The name of the first broken rule."""
    return next((name for name, rule in RULES.items() if rule(layout, model, stage, cluster)), None)


def _product(layout: Layout, model: ModelConfig, stage: StageConfig, cluster: Cluster) -> str | None:
    if layout.gpus == cluster.gpus:
        return None
    factors = f"pipeline {layout.pipeline} x data {layout.data} x context {layout.context} x tensor {layout.tensor}"
    return f"{factors} is {layout.gpus} GPUs, but {cluster.name} has {cluster.gpus}"


def _node(layout: Layout, model: ModelConfig, stage: StageConfig, cluster: Cluster) -> str | None:
    if cluster.gpus_per_node % layout.tensor:
        return f"tensor {layout.tensor} does not divide a node of {cluster.gpus_per_node} GPUs, whose links it needs"
    return None


def _tensor(layout: Layout, model: ModelConfig, stage: StageConfig, cluster: Cluster) -> str | None:
    attention, moe = model.attention, model.moe
    cut = {
        "attention heads": attention.num_attention_heads,
        "key-value heads": attention.num_key_value_heads,
        "rows of the vocabulary": model.vocab_size,
        "columns of the dense MLP": model.intermediate_size if moe.num_dense_layers or not moe.num_experts else 0,
        "columns of the shared experts": moe.num_shared_experts * moe.moe_intermediate_size,
    }
    uneven = [f"{size} {name}" for name, size in cut.items() if size % layout.tensor]
    return f"tensor {layout.tensor} does not divide the {' and the '.join(uneven)}" if uneven else None


def _pipeline(layout: Layout, model: ModelConfig, stage: StageConfig, cluster: Cluster) -> str | None:
    behind = model.audio.num_codebooks if model.audio is not None else 0
    most = max(model.num_hidden_layers - behind + 1, 1)
    if layout.pieces > most:
        held = f"pipeline {layout.pipeline} x virtual_stages {layout.virtual_stages} is {layout.pieces} pieces"
        return f"{held}, but the {model.num_hidden_layers} layers of {model.name} make at most {most}"
    return None


def _experts(layout: Layout, model: ModelConfig, stage: StageConfig, cluster: Cluster) -> str | None:
    if model.moe.num_experts == 0 and layout.expert > 1:
        return f"expert {layout.expert} needs experts, but {model.name} has none"
    if model.moe.num_experts % layout.expert:
        return f"expert {layout.expert} does not divide the {model.moe.num_experts} experts"
    if layout.expert > 1 and layout.expert % layout.tensor:
        return f"expert {layout.expert} is not a multiple of tensor {layout.tensor}: experts lie on whole tensor groups"
    return None


def _expert_group(layout: Layout, model: ModelConfig, stage: StageConfig, cluster: Cluster) -> str | None:
    if layout.stage_gpus % layout.expert:
        stage_gpus = f"the {layout.stage_gpus} GPUs of a stage (data x context x tensor)"
        return f"expert {layout.expert} does not divide {stage_gpus}"
    return None


def _sharding(layout: Layout, model: ModelConfig, stage: StageConfig, cluster: Cluster) -> str | None:
    return f"sharding {layout.sharding} does not divide data {layout.data}" if layout.data % layout.sharding else None


def _batch(layout: Layout, model: ModelConfig, stage: StageConfig, cluster: Cluster) -> str | None:
    rows = stage.batch_tokens // stage.max_seq_len
    if rows % (layout.data * stage.micro_batch_rows):
        each = f"data {layout.data} x {stage.micro_batch_rows} a forward pass"
        return f"the {rows} rows of a batch ({stage.batch_tokens} tokens) are not a multiple of {each}"
    return None


def _interleaving(layout: Layout, model: ModelConfig, stage: StageConfig, cluster: Cluster) -> str | None:
    """What fleet's PipelineParallelWithInterleave asks for."""
    count = microbatches(layout, stage)
    if layout.virtual_stages > 1 and layout.pipeline < 3:
        return f"virtual_stages {layout.virtual_stages} needs a pipeline degree above 2, but it is {layout.pipeline}"
    if layout.virtual_stages > 1 and count < 2 * layout.pipeline:
        return f"{count} forward passes a step are fewer than 2 x pipeline {layout.pipeline}, which interleaving needs"
    return None


def _sequence(layout: Layout, model: ModelConfig, stage: StageConfig, cluster: Cluster) -> str | None:
    parts = 2 * layout.context if layout.context > 1 else 1
    if stage.max_seq_len % (parts * layout.tensor):
        cut = f"2 x context {layout.context} parts, one early and one late for each GPU" if parts > 1 else "tokens"
        split = f" x tensor {layout.tensor}" if layout.tensor > 1 else ""
        return f"a row of {stage.max_seq_len} tokens does not cut into {cut}{split}"
    return None


RULES: dict[str, Rule] = {
    "product of degrees": _product,
    "tensor within a node": _node,
    "tensor cuts heads": _tensor,
    "pieces and layers": _pipeline,
    "experts over GPUs": _experts,
    "expert group": _expert_group,
    "sharding divides data": _sharding,
    "batch over data": _batch,
    "interleaving": _interleaving,
    "row over context": _sequence,
}
