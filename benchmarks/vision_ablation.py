"""What the choices of vision are worth: flip rate, scale weights, guidance, and the paths of understanding.

    python benchmarks/vision_ablation.py --tokenizer runs/vision_tokenizer [--steps 150] [--output FILE.md]

A world of two tasks, reading and drawing digits, is made in a temporary folder; every variant trains the model `digits`
on it for the same steps with the same seed, and is judged on held-out scans by tools/evaluate.py. Guidance is a matter
of sampling: its rows are the base model, drawn from anew. Every variant has one thread.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = "configs/run/digits.yaml"
WORLD_TASKS = {"read": 1, "draw": 1}
BASE_GUIDANCE = 2.0
VARIANTS: dict[str, tuple[str, ...]] = {
    "base: flips to 0.25, scale power 0.5, both paths": (),
    "no flips": ("data.vision.flip_max=0.0", "data.vision.flip_step=0.0"),
    "flips to 0.4": ("data.vision.flip_max=0.4",),
    "scale power 0: all tokens alike": ("stages.0.vision.scale_weight_power=0.0",),
    "scale power 1": ("stages.0.vision.scale_weight_power=1.0",),
    "CNN path alone": ("model.vision.understanding_path=cnn",),
    "ViT path alone": ("model.vision.understanding_path=vit",),
}
GUIDANCE = (1.0, 3.0, 5.0)  # beside the base's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="DIR", help="folder of a vision tokenizer")
    parser.add_argument("--steps", type=int, default=150, help="of each variant (default %(default)s)")
    parser.add_argument("--cases", type=int, default=200, help="judged for each task (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each variant (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="variants at a time, a thread each (default %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="Markdown; default: standard output")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = measure(Path(folder), arguments)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    else:
        print(text)


def measure(folder: Path, arguments: argparse.Namespace) -> str:
    world = make_world(folder / "world")
    jobs = [(name, seed) for name in VARIANTS for seed in range(arguments.seeds)]

    def train(job: tuple[str, int]) -> Path:
        name, seed = job
        run_dir = folder / f"run_{list(VARIANTS).index(name)}_{seed}"
        settings = {
            "train.output_dir": run_dir,
            "train.max_steps": arguments.steps,
            "train.seed": seed,
            "train.threads": 1,
            "train.eval_steps": 0,
            "train.sample_steps": 0,
            "train.save_steps": 0,
            "train.visualdl": "false",
            "data.train.0.path": world / "train.jsonl",
            "data.validation.0.path": world / "validation.jsonl",
            "tokenizer.vision": f"[{arguments.tokenizer.resolve()}]",
            "generation.media_prompts": "[]",
        }
        options = [f"{key}={value}" for key, value in settings.items()] + list(VARIANTS[name])
        tool("train.py", "-c", CONFIG, *(word for option in options for word in ("-o", option)))
        return run_dir / "model"

    with ThreadPoolExecutor(arguments.jobs) as pool:
        models = dict(zip(jobs, pool.map(train, jobs), strict=True))
        scored = dict(zip(jobs, pool.map(lambda job: score(models[job], world, arguments.cases), jobs), strict=True))
    base = next(iter(VARIANTS))
    rows = [[name, *mean(scored[name, seed] for seed in range(arguments.seeds))] for name in VARIANTS]
    seeds = range(arguments.seeds)
    guided = [
        [f"base, drawn with guidance {g:g}", *mean(score(models[base, s], world, arguments.cases, g) for s in seeds)]
        for g in GUIDANCE
    ]
    return document(rows + guided, arguments)


def make_world(folder: Path) -> Path:
    from ernie5.data.digits.tasks import TASKS

    weights = [f"{task}={WORLD_TASKS.get(task, 0)}" for task in TASKS]
    tool("make_digits.py", "--output", folder, *(word for weight in weights for word in ("--weight", weight)))
    return folder


def score(model: Path, world: Path, cases: int, guidance: float = BASE_GUIDANCE) -> list[float]:
    """[share read right, share drawn right, deviation within a class, near duplicates]."""
    result = model.parent / f"scores_{guidance}.json"
    options = ("--world", world, "--num", cases, "--guidance", guidance, guidance, "--json", result, "--threads", 1)
    tool("evaluate.py", model, *options)
    record = json.loads(result.read_text())
    drawn = record["variety"]["drawn"]
    return [
        *(record["scores"][task]["share"] for task in WORLD_TASKS),
        drawn["class_deviation"],
        drawn["near_duplicates"],
    ]


def mean(rows) -> list[float]:
    rows = list(rows)
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def tool(name: str, *arguments: object) -> None:
    command = [sys.executable, str(ROOT / "tools" / name), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)}\n{result.stderr}")


def document(rows: list[list], arguments: argparse.Namespace) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    header = "| variant | read right | drawn right | deviation in a class, greys | near duplicates |\n"
    header += "|---|---:|---:|---:|---:|"

    lines = "\n".join(f"| {name} | {r:.1%} | {d:.1%} | {v:.1f} | {n:.1%} |" for name, r, d, v, n in rows)
    return (
        f"# Ablations of vision on two tasks of the digit world\n\n{datetime.date.today()}, `python "
        f"benchmarks/vision_ablation.py --steps {arguments.steps} --seeds {arguments.seeds}`, commit "
        f"{commit.stdout.strip()}. Each variant learns to read and to draw for {arguments.steps} steps; up to "
        f"{arguments.cases} held-out cases a task, drawn with guidance {BASE_GUIDANCE:g} where no other is named. "
        f"Training is short: the numbers compare variants.\n\n{header}\n{lines}\n"
    )


if __name__ == "__main__":
    main()
