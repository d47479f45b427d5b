"""How long a step takes, by a model of its parts: work at a share of the peak, and what does not hide behind it."""

from dataclasses import dataclass

from ernie5.config.schema import ModelConfig, StageConfig
from ernie5.errors import UserError
from ernie5.planning.assumptions import (
    ATTENTION,
    EXPERTS,
    EXPERTS_FLOAT8,
    MATMUL,
    MEMORY,
    NETWORK,
    PASSES_OVER_ACTIVATIONS,
    Policy,
)
from ernie5.planning.cluster import Cluster
from ernie5.planning.layout import Layout, microbatches
from ernie5.planning.memory import layer_activation_bytes, optimizer_bytes, rank_tokens
from ernie5.planning.parameters import flops_per_token
from ernie5.planning.schedule import bubble_share
from ernie5.planning.stages import LayerFlops, Piece, cut_layers, different_ranks, piece_flops, rank_parameters
from ernie5.planning.traffic import Flow, rank_traffic


@dataclass(frozen=True, kw_only=True)
class RankTime:
    """Seconds of one microbatch, forward and backward, on a GPU of one pipeline rank."""

    matmul: float  # dense products
    attention: float
    experts: float  # routed
    memory: float  # norms, rotations, activations: bound by the GPU's memory
    tensor: float  # collectives that nothing hides
    context: float
    dispatch: float  # the experts' all-to-all, less what hides

    @property
    def total(self) -> float:
        return sum(vars(self).values())


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of an optimizer step, all microbatches."""

    work: RankTime  # of the slowest pipeline rank, all microbatches
    slowest: int  # that rank
    bubble: float
    data: float  # gradients reduced and weights gathered, after the last microbatch
    optimizer: float
    bubble_share: float  # of the work
    flops: float  # of the whole model and step, as MFU counts them
    mfu: float  # share of the GPUs' dense bfloat16 peak that those take
    tokens: int

    @property
    def total(self) -> float:
        return self.work.total + self.bubble + self.data + self.optimizer


def step_time(model: ModelConfig, stage: StageConfig, layout: Layout, policy: Policy, cluster: Cluster) -> StepTime:
    """The slowest rank's work for all microbatches * (1 + bubble), then gradients, weights and optimizer.

    Messages between pipeline ranks hide behind the next microbatch. Gradients do not hide: they wait for the last
    microbatch. MFU is 3 * `flops_per_token` of the batch (backbone and head, without prediction block and recompute)
    over the step's time and the dense bfloat16 peak, also where products are float8: that is how reports count.
    """
    if policy.precision == "float8" and not cluster.fp8_tflops:
        raise UserError(f"{cluster.name} has no float8 products (cluster.fp8_tflops is 0): use --precision bfloat16")
    count = microbatches(layout, stage)
    ranks = different_ranks(model, layout.pipeline, layout.virtual_stages, stage.max_seq_len)
    traffic = {rank: rank_traffic(model, stage, layout, policy, cluster, rank) for rank in ranks}
    times = {rank: _rank_time(model, stage, layout, policy, cluster, rank, traffic[rank]) for rank in ranks}
    slowest = max(ranks, key=lambda rank: times[rank].total)
    work = RankTime(**{name: count * value for name, value in vars(times[slowest]).items()})
    share = bubble_share(layout.pipeline, layout.virtual_stages, count)
    data = max(_seconds(flows["data"], cluster) for flows in traffic.values())
    optimizer = max(_optimizer(model, stage, layout, policy, cluster, rank) for rank in ranks)
    flops = 3.0 * flops_per_token(model, stage.max_seq_len) * stage.batch_tokens
    total = work.total * (1 + share) + data + optimizer
    return StepTime(
        work=work,
        slowest=slowest,
        bubble=work.total * share,
        data=data,
        optimizer=optimizer,
        bubble_share=share,
        flops=flops,
        mfu=flops / (total * cluster.gpus * cluster.bf16_tflops * 1e12),
        tokens=stage.batch_tokens,
    )


def _rank_time(
    model: ModelConfig,
    stage: StageConfig,
    layout: Layout,
    policy: Policy,
    cluster: Cluster,
    rank: int,
    traffic: dict[str, Flow],
) -> RankTime:
    """A forward pass counts once, a backward pass twice, full recompute once more. Routed experts take the longer of
    their products and of reading their weights and reading and writing their gradients."""
    tokens, numbers = rank_tokens(layout, stage), policy.bytes
    pieces = cut_layers(model, layout.pipeline, layout.virtual_stages, stage.max_seq_len)[rank]
    flops = sum((piece_flops(model, stage.max_seq_len, piece) for piece in pieces), LayerFlops())
    passes = 3 + (policy.recompute == "full")
    peak, memory = cluster.bf16_tflops * 1e12, cluster.memory_gb_per_s * 1e9 * MEMORY
    expert_rate = cluster.fp8_tflops * 1e12 * EXPERTS_FLOAT8 if policy.precision == "float8" else peak * EXPERTS
    experts = rank_parameters(model, layout, stage.max_seq_len, rank).experts
    expert_bytes = experts * ((passes - 1) * numbers.weight + 2 * numbers.gradient)
    saved = _layer_bytes(model, stage, layout, policy, pieces)
    calls = microbatches(layout, stage)
    seconds = {name: _seconds(flow, cluster) / calls for name, flow in traffic.items()}
    return RankTime(
        matmul=passes * tokens * (flops.matmul / layout.tensor + flops.whole / layout.token_split) / (peak * MATMUL),
        attention=passes * tokens * flops.attention / layout.tensor / (peak * ATTENTION),
        experts=max(passes * tokens / layout.tensor * flops.experts / expert_rate, expert_bytes / memory),
        memory=PASSES_OVER_ACTIVATIONS * passes / 3 * saved / memory,
        tensor=seconds["tensor"],
        context=seconds["context"],
        dispatch=seconds["expert"] * (1.0 - policy.expert_overlap),
    )


def _layer_bytes(
    model: ModelConfig, stage: StageConfig, layout: Layout, policy: Policy, pieces: tuple[Piece, ...]
) -> float:
    """What the layers of these pieces would keep without recompute: it all passes through memory."""
    blocks = model.num_nextn_predict_layers if pieces[-1].is_last else 0
    routing = sum(piece.moe_layers for piece in pieces) + (blocks if model.moe.num_experts else 0)
    dense = sum(piece.dense_layers for piece in pieces) + (0 if model.moe.num_experts else blocks)
    size = routing * layer_activation_bytes(model, stage, layout, policy, True) if routing else 0.0
    return size + (dense * layer_activation_bytes(model, stage, layout, policy, False) if dense else 0.0)


def _optimizer(
    model: ModelConfig, stage: StageConfig, layout: Layout, policy: Policy, cluster: Cluster, rank: int
) -> float:
    """States read and written, gradients read, weights written: bound by memory."""
    numbers = policy.bytes
    states = optimizer_bytes(rank_parameters(model, layout, stage.max_seq_len, rank), layout, policy)
    touched = states * (2 + (numbers.gradient + numbers.weight) / numbers.state)
    return touched / (cluster.memory_gb_per_s * 1e9 * MEMORY)


def _seconds(flow: Flow, cluster: Cluster) -> float:
    """Links within and between nodes work at once: the longer of the two, and the latency of each message."""
    intra = flow.intra / (cluster.intra_gb_per_s * 1e9 * NETWORK)
    inter = flow.inter / (cluster.inter_gb_per_s * 1e9 * NETWORK)
    latency = cluster.inter_latency_us if flow.inter else cluster.intra_latency_us
    return max(intra, inter) + flow.messages * latency * 1e-6
