"""Layouts of a model on a cluster, the fastest first, and why the others were refused."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ernie5.config.schema import ModelConfig, StageConfig
from ernie5.planning.assumptions import USABLE_MEMORY, Policy
from ernie5.planning.case import Case
from ernie5.planning.cluster import Cluster
from ernie5.planning.layout import Layout, first_refusal, refusals
from ernie5.planning.memory import Memory, rank_memory
from ernie5.planning.time import StepTime, step_time

VIRTUAL_STAGES = (1, 2, 3, 4, 6, 8)
CONTEXTS = (1, 2, 4, 8, 16, 32, 64)
OUT_OF_MEMORY = "memory"


@dataclass(frozen=True)
class Plan:
    """A layout that breaks no rule, and what it costs."""

    case: Case
    memory: Memory  # of the fullest GPU
    fullest: int  # its pipeline rank
    time: StepTime

    @property
    def layout(self) -> Layout:
        return self.case.layout


@dataclass(frozen=True)
class Found:
    plans: tuple[Plan, ...]  # fastest first
    tried: int
    refused: Counter[str]  # name of the first broken rule -> layouts


def search(model: ModelConfig, stage: StageConfig, cluster: Cluster, policies: tuple[Policy, ...]) -> Found:
    """Every layout of `candidates` under every policy. One that needs recompute to fit is tried with it."""
    refused: Counter[str] = Counter()
    plans, tried = [], 0
    for layout in candidates(model, cluster):
        tried += 1
        name = first_refusal(layout, model, stage, cluster)
        if name is None:
            cases = (Case(model, stage, layout, policy) for policy in policies)
            fitting = [case for case in cases if not memory_refusal(peak_memory(case)[0], cluster)]
            plans += [make_plan(case, cluster) for case in fitting]
            name = None if fitting else OUT_OF_MEMORY
        if name is not None:
            refused[name] += 1
    return Found(tuple(sorted(plans, key=lambda plan: plan.time.total)), tried, refused)


def candidates(model: ModelConfig, cluster: Cluster) -> Iterator[Layout]:
    """Degrees whose product is the GPUs; ZeRO-1 over all of data, sequence parallelism wherever tensor cuts."""
    for tensor in divisors(cluster.gpus_per_node):
        for context in CONTEXTS:
            if cluster.gpus % (tensor * context):
                continue
            for pipeline in divisors(cluster.gpus // (tensor * context)):
                if pipeline > model.num_hidden_layers + 1:
                    break
                data = cluster.gpus // (tensor * context * pipeline)
                for virtual_stages in VIRTUAL_STAGES if pipeline > 2 else (1,):
                    for expert in divisors(model.moe.num_experts or 1):
                        yield Layout(
                            tensor=tensor,
                            pipeline=pipeline,
                            virtual_stages=virtual_stages,
                            expert=expert,
                            context=context,
                            sharding=data,
                            data=data,
                        )


def make_plan(case: Case, cluster: Cluster) -> Plan:
    """Memory and time, whether or not the memory suffices."""
    return Plan(case, *peak_memory(case), step_time(case, cluster))


def peak_memory(case: Case) -> tuple[Memory, int]:
    """The memory of the fullest GPU, and its pipeline rank."""
    sizes = {rank: rank_memory(case, rank) for rank in case.ranks}
    fullest = max(sizes, key=lambda rank: sizes[rank].total)
    return sizes[fullest], fullest


def memory_refusal(memory: Memory, cluster: Cluster) -> str | None:
    """One sentence when the memory does not suffice, with what takes most of it."""
    usable = USABLE_MEMORY * cluster.memory_bytes
    if memory.total <= usable:
        return None
    largest = max(vars(memory), key=lambda name: getattr(memory, name))
    return (
        f"{memory.total / 2**30:.1f} GiB are needed on the fullest GPU, but {usable / 2**30:.1f} GiB of "
        f"{cluster.memory_gib:g} are usable; {largest} takes {getattr(memory, largest) / 2**30:.1f}"
    )


def case_refusals(case: Case, cluster: Cluster) -> dict[str, str]:
    """Every reason against one case; memory is looked at when nothing else is in the way."""
    found = refusals(case.layout, case.model, case.stage, cluster)
    if not found and (memory := memory_refusal(peak_memory(case)[0], cluster)):
        found = {OUT_OF_MEMORY: memory}
    return found


def policies(base: Policy, recompute: str) -> tuple[Policy, ...]:
    """The policies that a search tries: `auto` is both kinds of recompute."""
    kinds = ("none", "full") if recompute == "auto" else (recompute,)
    return tuple(replace(base, recompute=kind) for kind in kinds)


def divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
