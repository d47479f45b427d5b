"""How long a step takes, by a model of its parts: work at a share of the peak, and what does not hide behind it."""

from dataclasses import dataclass

from ernie5.errors import UserError
from ernie5.planning.assumptions import (
    ATTENTION,
    EXPERTS,
    EXPERTS_FLOAT8,
    MATMUL,
    MEMORY,
    NETWORK,
    PASSES_OVER_ACTIVATIONS,
)
from ernie5.planning.case import Case
from ernie5.planning.cluster import Cluster
from ernie5.planning.memory import layer_activation_bytes, optimizer_bytes
from ernie5.planning.parameters import flops_per_token
from ernie5.planning.schedule import bubble_share
from ernie5.planning.stages import LayerFlops, piece_flops
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


def step_time(case: Case, cluster: Cluster) -> StepTime:
    """The slowest rank's work for all microbatches * (1 + bubble), then gradients, weights and optimizer.

    Messages between pipeline ranks hide behind the next microbatch. Gradients do not hide: they wait for the last
    microbatch. MFU is 3 * `flops_per_token` of the batch (backbone and head, without prediction block and recompute)
    over the step's time and the dense bfloat16 peak, also where products are float8: that is how reports count.
    """
    if case.policy.precision == "float8" and not cluster.fp8_tflops:
        raise UserError(f"{cluster.name} has no float8 products (cluster.fp8_tflops is 0): use --precision bfloat16")
    count, stage = case.microbatches, case.stage
    traffic = {rank: rank_traffic(case, cluster, rank) for rank in case.ranks}
    times = {rank: _rank_time(case, cluster, rank, flows) for rank, flows in traffic.items()}
    slowest = max(times, key=lambda rank: times[rank].total)
    work = RankTime(**{name: count * value for name, value in vars(times[slowest]).items()})
    share = bubble_share(case.layout.pipeline, case.layout.virtual_stages, count)
    data = max(_seconds(flows["data"], cluster) for flows in traffic.values())
    optimizer = max(_optimizer(case, cluster, rank) for rank in times)
    flops = 3.0 * flops_per_token(case.model, stage.max_seq_len) * stage.batch_tokens
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


def _rank_time(case: Case, cluster: Cluster, rank: int, traffic: dict[str, Flow]) -> RankTime:
    """A forward pass counts once, a backward pass twice, full recompute once more. Routed experts take the longer of
    their products and of reading their weights and reading and writing their gradients. What the layers would keep
    without recompute passes through memory."""
    layout, numbers, pieces = case.layout, case.bytes, case.pieces(rank)
    flops = sum((piece_flops(case.model, case.stage.max_seq_len, piece) for piece in pieces), LayerFlops())
    passes = 3 + case.recomputes
    peak, memory = cluster.bf16_tflops * 1e12, cluster.memory_gb_per_s * 1e9 * MEMORY
    float8 = case.policy.precision == "float8"
    expert_rate = cluster.fp8_tflops * 1e12 * EXPERTS_FLOAT8 if float8 else peak * EXPERTS
    expert_bytes = case.parameters(rank).experts * ((passes - 1) * numbers.weight + 2 * numbers.gradient)
    dense, routing = case.layer_kinds(pieces)
    saved = routing * layer_activation_bytes(case, True) + dense * layer_activation_bytes(case, False)
    own = passes * case.tokens / layout.tensor
    seconds = {name: _seconds(flow, cluster) / case.microbatches for name, flow in traffic.items()}
    return RankTime(
        matmul=own * (flops.matmul + flops.whole) / (peak * MATMUL),
        attention=own * flops.attention / (peak * ATTENTION),
        experts=max(own * flops.experts / expert_rate, expert_bytes / memory),
        memory=PASSES_OVER_ACTIVATIONS * passes / 3 * saved / memory,
        tensor=seconds["tensor"],
        context=seconds["context"],
        dispatch=seconds["expert"] * (1.0 - case.policy.expert_overlap),
    )


def _optimizer(case: Case, cluster: Cluster, rank: int) -> float:
    """States read and written, gradients read, weights written: bound by memory."""
    numbers = case.bytes
    states = optimizer_bytes(case.parameters(rank), case.layout, case.policy)
    touched = states * (2 + (numbers.gradient + numbers.weight) / numbers.state)
    return touched / (cluster.memory_gb_per_s * 1e9 * MEMORY)


def _seconds(flow: Flow, cluster: Cluster) -> float:
    """Links within and between nodes work at once: the longer of the two, and the latency of each message."""
    intra = flow.intra / (cluster.intra_gb_per_s * 1e9 * NETWORK)
    inter = flow.inter / (cluster.inter_gb_per_s * 1e9 * NETWORK)
    latency = cluster.inter_latency_us if flow.inter else cluster.intra_latency_us
    return max(intra, inter) + flow.messages * latency * 1e-6
