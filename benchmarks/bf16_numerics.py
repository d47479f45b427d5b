"""What products in bfloat16 do to training: the text run with and without them, seed by seed.

    python benchmarks/bf16_numerics.py --output docs/benchmarks

Each run is a process of one thread, `--jobs` of them side by side; one that is finished is not repeated. The same seed
gives both the same weights and the same batches.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
WAYS = {"float32": "false", "bfloat16": "true"}
SMOOTHED = 25  # steps that a curve's point is the mean of
LAST = 50  # steps whose mean is a run's final training loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=ROOT / "configs/run/pydoc.yaml")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/bf16_numerics", help="where the runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-steps", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path, help="folder for the table and the curves (default: print the table)")
    args = parser.parse_args()
    wanted = [(way, seed) for seed in args.seeds for way in WAYS]
    with ThreadPoolExecutor(args.jobs) as pool:
        curves = dict(zip(wanted, pool.map(lambda one: losses(args, *one), wanted), strict=True))
    page = table(args, curves)
    print(page)
    if args.output:
        (args.output / "bf16_numerics_table.md").write_text(page, encoding="utf-8")
        draw(args, curves, args.output / "bf16_numerics.png")


def losses(args: argparse.Namespace, way: str, seed: int) -> dict[str, list[float]]:
    """`train`: text loss of each logged step in nats; `validation`: bits per byte at each evaluation."""
    folder = args.runs / f"{way}_{seed}_{args.max_steps}"
    if not (folder / "model").exists():
        options = {
            "train.output_dir": folder,
            "train.seed": seed,
            "train.max_steps": args.max_steps,
            "train.log_steps": 1,
            "train.eval_steps": 100,
            "train.sample_steps": args.max_steps,
            "train.save_steps": args.max_steps,
            "ops.backend": "native",
            "ops.bf16_products": WAYS[way],
        }
        command = [sys.executable, ROOT / "tools/train.py", "-c", args.config, "--nproc_per_node", "1"]
        for name, value in options.items():
            command += ["-o", f"{name}={value}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        log = folder.with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as out:
            finished = subprocess.run([*map(str, command)], env=environment, stdout=out, stderr=out, check=False)
        if finished.returncode:
            raise SystemExit(f"error: the run of {way}, seed {seed}, failed: see {log}")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "train": [record["loss_text"] for record in records if record["kind"] == "train"],
        "validation": [record["bits_per_byte"] for record in records if record["kind"] == "eval"],
    }


def smoothed(values: list[float]) -> list[float]:
    return [statistics.fmean(values[max(0, end - SMOOTHED) : end]) for end in range(1, len(values) + 1)]


def table(args: argparse.Namespace, curves: dict) -> str:
    """One row a seed: the two ways' final losses, their difference, and how far the smoothed curves part."""
    lines = [
        f"Training loss in nats (mean of the last {LAST} of {args.max_steps} steps), validation in bits per byte.\n",
        "| seed | float32 | bfloat16 | difference | widest gap | validation float32 | bfloat16 | difference |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    finals: dict[str, list[float]] = {way: [] for way in WAYS}
    validated: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in args.seeds:
        runs = {way: curves[way, seed] for way in WAYS}
        for way, run in runs.items():
            finals[way].append(statistics.fmean(run["train"][-LAST:]))
            validated[way].append(run["validation"][-1])
        both = zip(*(smoothed(run["train"])[SMOOTHED:] for run in runs.values()), strict=True)
        gap = max((abs(one - other) for one, other in both), default=0.0)
        ours, theirs = (finals[way][-1] for way in WAYS)
        first, second = (validated[way][-1] for way in WAYS)
        numbers = f"{ours:.4f} | {theirs:.4f} | {theirs - ours:+.4f} | {gap:.4f} | {first:.4f} | {second:.4f}"
        lines.append(f"| {seed} | {numbers} | {second - first:+.4f} |")
    lines.append("")
    for name, values in (("training loss", finals), ("validation", validated)):
        means = {way: statistics.fmean(numbers) for way, numbers in values.items()}
        spread = {way: max(numbers) - min(numbers) for way, numbers in values.items()}
        difference = means["bfloat16"] - means["float32"]
        lines.append(
            f"Mean {name}: {means['float32']:.4f} and {means['bfloat16']:.4f} ({difference:+.4f}); "
            f"from the lowest seed to the highest {spread['float32']:.4f} and {spread['bfloat16']:.4f}."
        )
    return "\n".join(lines) + "\n"


def draw(args: argparse.Namespace, curves: dict, to: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 7), sharex=True, height_ratios=[2, 1])
    for place, seed in enumerate(args.seeds):
        color = f"C{place}"
        ours, theirs = (smoothed(curves[way, seed]["train"]) for way in WAYS)
        above.plot(ours, color=color, label=f"float32, seed {seed}")
        above.plot(theirs, color=color, linestyle="--", label=f"bfloat16 products, seed {seed}")
        below.plot([second - first for first, second in zip(ours, theirs, strict=True)], color=color)
    above.set_ylabel(f"text loss, nats (mean of {SMOOTHED} steps)")
    above.legend()
    below.axhline(0, color="grey", linewidth=0.8)
    below.set(xlabel="step", ylabel="bfloat16 minus float32")
    figure.tight_layout()
    figure.savefig(to, dpi=110)


if __name__ == "__main__":
    main()
