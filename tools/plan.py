"""Plans the training of a model on a cluster by arithmetic: which layouts fit, what they cost, why others do not.

python tools/plan.py -m configs/model/full_2p4t.yaml --stage configs/stage/report_8k_32k_128k.yaml:pretrain_8k \\
    --cluster configs/cluster/h800_4096.yaml --top 5
python tools/plan.py ... --layout tensor=4,pipeline=12,expert=64 --recompute full --timeline timeline.png

Loads no Paddle. Ends with 0 when a layout fits, 1 when none does. How to read the output: docs/guides/plan.md
"""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ernie5.config.load import load_as, load_model_config
from ernie5.config.rules import batch_is_whole_rows, stage_sizes_are_in_range
from ernie5.config.schema import ModelConfig, StageConfig
from ernie5.errors import UserError, exit_cleanly
from ernie5.planning.assumptions import Policy
from ernie5.planning.case import Case
from ernie5.planning.cluster import Cluster, load_cluster
from ernie5.planning.layout import RULES, parse_layout
from ernie5.planning.search import OUT_OF_MEMORY, Found, Plan, case_refusals, make_plan, policies, search
from ernie5.planning.timeline import draw_timeline
from ernie5.planning.traffic import rank_traffic

SECTIONS = ("model", "stages", "cluster")
CAUSES = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "loss": "logits, head gradient",
    "buffers": "communication buffers",
    "runtime": "runtime, reserve",
}


@dataclass(frozen=True, kw_only=True)
class StageFile:
    stages: tuple[StageConfig, ...]


@dataclass(frozen=True)
class Job:
    """What is planned."""

    model: ModelConfig
    stage: StageConfig
    cluster: Cluster


def main() -> int:
    args = parse_args()
    overrides = sorted_overrides(args.opt)
    job = Job(
        load_model_config(args.model, overrides["model"]),
        load_stage(args.stage, overrides["stages"]),
        load_cluster(args.cluster, tuple(overrides["cluster"])),
    )
    base = Policy(precision=args.precision, dispatch=args.dispatch, expert_overlap=args.overlap)
    tried = policies(base, args.recompute)
    plan, lines = named(job, args.layout, tried) if args.layout else found(job, tried, args.top)
    if plan is not None and args.timeline:
        backward = 3.0 if plan.case.policy.recompute == "full" else 2.0
        count = plan.case.microbatches
        drawn = draw_timeline(plan.layout, count, backward, Path(args.timeline))
        lines.append(f"\ntimeline of {drawn} of {count} microbatches: {args.timeline}")
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if plan is not None else 1


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("-m", "--model", required=True, metavar="FILE", help="a model, such as configs/model/full_2p4t.yaml")
    add("--stage", required=True, metavar="FILE[:NAME]", help="a file of stages and one of them; default: its first")
    add("--cluster", required=True, metavar="FILE", help="the GPUs, such as configs/cluster/h800_4096.yaml")
    add("--layout", metavar="DEGREES", help="one layout instead of a search: tensor=4,pipeline=12,expert=64,...")
    add("--top", type=positive, default=5, metavar="N", help="layouts that the search lists (default: 5)")
    add("--recompute", choices=("auto", "none", "full"), default="auto", help="default: whichever is faster and fits")
    add("--precision", choices=("bfloat16", "float8", "float32"), default="bfloat16", help="default: bfloat16")
    add("--dispatch", choices=("rank", "node"), default="rank", help="a row once to each rank, or each node (DeepEP)")
    add("--overlap", type=share, default=0.0, metavar="SHARE", help="of the all-to-all that is hidden (default: 0)")
    add("--timeline", metavar="PNG", help="draws the pipeline's schedule (needs matplotlib)")
    add("-o", "--opt", action="append", default=[], metavar="KEY=VALUE", help="sets model.*, stages.* or cluster.*")
    return parser.parse_args()


def positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return value


def sorted_overrides(options: list[str]) -> dict[str, list[str]]:
    """The overrides of each file. UserError: one that is for none of them."""
    overrides: dict[str, list[str]] = {section: [] for section in SECTIONS}
    for option in options:
        section = option.partition("=")[0].partition(".")[0].strip()
        if section not in overrides:
            raise UserError(f"-o {option}: a plan has model.*, stages.* and cluster.* alone")
        overrides[section].append(option)
    return overrides


def load_stage(text: str, overrides: list[str]) -> StageConfig:
    """`file.yaml` or `file.yaml:name`. UserError: unreadable, no such stage, sizes that do not fit together."""
    path, _, name = text.partition(":") if not Path(text).exists() else (text, "", "")
    stages = load_as(StageFile, path, overrides).stages
    chosen = [stage for stage in stages if stage.name == name] if name else list(stages[:1])
    if not chosen:
        names = ", ".join(stage.name for stage in stages)
        raise UserError(f"{path}: there is no stage {name!r}: it has {names or 'none'}")
    for rule in (stage_sizes_are_in_range, batch_is_whole_rows):
        if message := rule(chosen[0]):
            raise UserError(f"{path}: stages.{stages.index(chosen[0])}.{message}")
    return chosen[0]


def named(job: Job, text: str, tried: tuple[Policy, ...]) -> tuple[Plan | None, list[str]]:
    """One layout: its report, or why it is refused. Of several policies the fastest that fits."""
    layout = parse_layout(text, job.cluster)
    lines = [heading(job)]
    cases = [Case(job.model, job.stage, layout, policy) for policy in tried]
    refused = [case_refusals(case, job.cluster) for case in cases]
    fitting = [case for case, reasons in zip(cases, refused, strict=True) if not reasons]
    if any(name != OUT_OF_MEMORY for name in refused[-1]):
        return None, [*lines, f"refused: {layout}", *(f"  {sentence}" for sentence in refused[-1].values())]
    plans = [make_plan(case, job.cluster) for case in fitting or cases[-1:]]
    plan = min(plans, key=lambda plan: plan.time.total)
    lines += report(job, plan)
    for policy, reasons in zip(tried, refused, strict=True):
        lines += [f"\nrefused with recompute {policy.recompute}: {sentence}" for sentence in reasons.values()]
    return (plan if fitting else None), lines


def found(job: Job, tried: tuple[Policy, ...], top: int) -> tuple[Plan | None, list[str]]:
    """The best layouts of a search, the first in full, and the refusals by reason."""
    result = search(job.model, job.stage, job.cluster, tried)
    lines = [heading(job)]
    if result.plans:
        lines += [*report(job, result.plans[0]), "", *ranking(result, top)]
    else:
        lines.append("no layout fits")
    refused = sum(result.refused.values())
    lines += ["", f"refused: {refused:,} of {result.tried:,} layouts, each by the first reason found"]
    lines += [f"  {name:<24}{result.refused[name]:>8,}" for name in (*RULES, OUT_OF_MEMORY) if result.refused[name]]
    return (result.plans[0] if result.plans else None), lines


def heading(job: Job) -> str:
    model, stage, cluster = job.model, job.stage, job.cluster
    batch = f"{stage.batch_tokens:,} tokens a step, rows of {stage.max_seq_len:,}"
    return f"{model.name}, {stage.name} ({batch}), {cluster.name}"


def ranking(result: Found, top: int) -> list[str]:
    lines = [f"{'layout':<44}{'recompute':>10}{'s/step':>9}{'MFU':>8}{'GiB':>8}{'bubble':>9}"]
    for plan in result.plans[:top]:
        figures = f"{plan.time.total:>9.2f}{plan.time.mfu:>8.1%}{plan.memory.total / 2**30:>8.1f}"
        lines.append(f"{plan.layout!s:<44}{plan.case.policy.recompute:>10}{figures}{plan.time.bubble_share:>9.1%}")
    return lines


def report(job: Job, plan: Plan) -> list[str]:
    """Everything about one plan."""
    layout, policy = plan.layout, plan.case.policy
    hidden = f", {policy.expert_overlap:.0%} of dispatch hidden" if policy.expert_overlap else ""
    run = f"{policy.precision}, recompute {policy.recompute}, one row for each {policy.dispatch}{hidden}"
    lines = [f"layout: {layout} on {job.cluster.gpus:,} GPUs; {run}"]
    lines += parameter_lines(plan) + memory_lines(job, plan)
    return lines + traffic_lines(job, plan) + time_lines(job, plan)


def parameter_lines(plan: Plan) -> list[str]:
    ranks = range(plan.layout.pipeline)
    depth = [sum(piece.layers for piece in plan.case.pieces(rank)) for rank in ranks]
    sizes = [plan.case.parameters(rank) for rank in ranks]
    lines = ["", f"layers of each pipeline rank: {' '.join(map(str, depth))} (the last has the head and the block too)"]
    lines.append(f"{'parameters of a GPU':<26}{'fewest':>16}{'most':>16}")
    rows = {
        "cut by tensor": "cut",
        "whole": "whole",
        "at both ends": "tied",
        "experts": "experts",
        "total": "total",
    }
    for label, name in rows.items():
        values = [getattr(size, name) for size in sizes]
        lines.append(f"  {label:<24}{min(values):>16,}{max(values):>16,}")
    return lines


def memory_lines(job: Job, plan: Plan) -> list[str]:
    lines = ["", f"{f'memory, pipeline rank {plan.fullest}':<34}{'GiB':>8}"]
    lines += [f"  {label:<32}{getattr(plan.memory, name) / 2**30:>8.2f}" for name, label in CAUSES.items()]
    return [*lines, f"  {'total':<32}{plan.memory.total / 2**30:>8.2f} of {job.cluster.memory_gib:g}"]


def traffic_lines(job: Job, plan: Plan) -> list[str]:
    rank = plan.time.slowest
    flows = rank_traffic(plan.case, job.cluster, rank)
    lines = ["", f"{f'GB that a GPU sends, rank {rank}':<34}{'in node':>10}{'to others':>11}{'least':>10}"]
    for name, flow in flows.items():
        lines.append(f"  {name:<32}{flow.intra / 1e9:>10.3f}{flow.inter / 1e9:>11.3f}{flow.least / 1e9:>10.3f}")
    return lines


def time_lines(job: Job, plan: Plan) -> list[str]:
    time, count = plan.time, plan.case.microbatches
    lines = ["", f"{f'time of a step, rank {time.slowest} the slowest':<34}{'seconds':>8}"]
    parts = {
        **vars(time.work),
        "pipeline bubble": time.bubble,
        "gradients, weights": time.data,
        "optimizer": time.optimizer,
    }
    lines += [f"  {name:<32}{value:>8.3f}{value / time.total:>8.1%}" for name, value in parts.items()]
    lines.append(f"  {'total':<32}{time.total:>8.3f}")
    gpu_hours = time.total * job.cluster.gpus / 3600 / time.tokens * 1e12
    return [
        *lines,
        "",
        f"microbatches {count:,}; bubble {time.bubble_share:.2%} of the work; {time.flops:.4g} FLOPs a step",
        f"MFU {time.mfu:.1%}; {time.tokens / time.total:,.0f} tokens/s; {gpu_hours:,.0f} GPU hours for 10^12 tokens",
    ]


if __name__ == "__main__":
    exit_cleanly(main)
