"""One model for all modalities beside one for each: is one ability paid for with another (report §1)?

    python benchmarks/unification.py --world data/digits --run runs/digits --output runs/unification

Beside the run that `make train` left, a model of the same backbone, and so of the same active size, is trained on the
samples of each modality alone (`benchmarks/README.md` says how it is made equal); all are judged on the test split by
tools/evaluate.py. `--balance` trains all modalities once more, with the other method of balancing their losses. What is
finished in the output folder is not done again. The manifests of a modality, vision_train.jsonl and so on, are written
into the world's folder, because a manifest names its media from its own. The page is written to unification.md.
"""

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from unification_page import MODALITIES, Contestant, page

from ernie5.config.load import load_config
from ernie5.config.schema import Config, StageConfig
from ernie5.errors import UserError, exit_cleanly
from ernie5.train.schedule import steps_left

if TYPE_CHECKING:
    from ernie5.train.evaluate import Score

ROOT = Path(__file__).parents[1]
MIXED = "mixed"  # samples with sounds and pictures
ROW_SAMPLES = 4  # of the longest that fit into a row, at least: more of a shorter row would be padding
PROBES = 400  # samples of each modality that are encoded to learn their length
OTHER_BALANCE = {"posterior": "none", "none": "posterior"}
TOWERS = {"vision": {"vision"}, "speech": {"audio"}, "text": set()}  # what a modality's model needs
WITHOUT = {
    "vision": {"model.vision": "null", "tokenizer.vision": "[]"},
    "audio": {"model.audio": "null", "tokenizer.audio": "", "tokenizer.speaker": ""},
}


class Part(NamedTuple):
    """What a modality is of the training mixture."""

    share: float  # of its tokens
    longest: int  # tokens of the longest sample that was encoded


def main() -> None:
    arguments = parse_arguments()
    if min(arguments.num, arguments.nproc_per_node - 1) < 0:
        raise UserError("--num must be 0 or more, --nproc_per_node 1 or more")
    for folder, what in ((arguments.world, "test.jsonl"), (arguments.run, "config.yaml"), (arguments.run, "model")):
        if not (folder / what).exists():
            raise UserError(f"{folder}: holds no {what}: make the world and train on it first (make train)")
    text = page(*compare(arguments), command=shlex.join(["python", *sys.argv]))
    (arguments.output / "unification.md").write_text(text, encoding="utf-8")
    print(text)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=Path("data/digits"), metavar="DIR", help="default %(default)s")
    parser.add_argument(
        "--run", type=Path, default=Path("runs/digits"), metavar="DIR", help="the unified run (default %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/unification"), metavar="DIR", help="default %(default)s"
    )
    parser.add_argument("--nproc_per_node", type=int, default=2, metavar="N", help="that train (default %(default)s)")
    parser.add_argument("--num", type=int, default=0, metavar="N", help="test samples a task (default: all)")
    parser.add_argument("--judge", type=Path, metavar="DIR", help="of speech (default: speech_judge in the world)")
    parser.add_argument("--balance", action="store_true", help="also train with the other balance of losses")
    parser.add_argument(
        "-o", "--opt", action="append", default=[], metavar="KEY=VALUE", help="override in every training that is done"
    )
    return parser.parse_args()


def compare(arguments: argparse.Namespace) -> tuple[list[Contestant], dict[str, str]]:
    """The unified run, those of a modality each, that of the other balance; and the modality of each task."""
    world, run_dir, output = (path.resolve() for path in (arguments.world, arguments.run, arguments.output))
    output.mkdir(parents=True, exist_ok=True)
    config = load_config(run_dir / "config.yaml")
    if len(config.data.train) != 1:
        raise UserError(f"{run_dir}: was trained on {len(config.data.train)} sources: name a run on one digit world")
    manifests = {split: split_by_modality(world / f"{split}.jsonl") for split in ("train", "validation")}
    parts = measure_parts(world / "train.jsonl", config, run_dir / "tokenizer")
    present = [name for name in MODALITIES if name in parts and name in manifests["validation"]]
    contestants = [
        Contestant("unified", "", run_dir, None, config.stages, judge(run_dir / "model", output / "unified", arguments))
    ]
    for name in present:
        paths = {split: manifests[split][name] for split in manifests}
        stages = tuple(shrunk(stage, parts[name], arguments.nproc_per_node) for stage in config.stages)
        options = common_options(run_dir, paths, config, TOWERS[name]) | stage_options(stages)
        folder = train(output / name, run_dir, options, arguments)
        scores = judge(folder / "model", folder, arguments)
        contestants.append(Contestant(f"{name} alone", name, folder, parts[name].share, stages, scores))
    if arguments.balance:
        paths = {split: world / f"{split}.jsonl" for split in manifests}
        method = OTHER_BALANCE[config.stages[0].balance.method]
        options = common_options(run_dir, paths, config, {"vision", "audio"})
        options |= {f"stages.{i}.balance.method": method for i in range(len(config.stages))}
        folder = train(output / f"balance_{method}", run_dir, options, arguments)
        scores = judge(folder / "model", folder, arguments)
        contestants.append(Contestant(f"balance {method}", "", folder, None, config.stages, scores))
    return [
        contestant._replace(
            losses={
                name: validation_loss(contestant.run_dir / "model", manifests["validation"][name], config.stages[-1])
                for name in present
                if contestant.modality in ("", name)
            }
        )
        for contestant in contestants
    ], modalities_of_tasks(world)


# The modalities of the world.


def modality_of(line: bytes | str) -> str:
    """vision, speech, text or mixed: by what a line of a manifest holds beside text."""
    types = {segment["type"] for segment in json.loads(line)["segments"]}
    sees, hears = bool(types & {"image", "video"}), "audio" in types
    if sees and hears:
        return MIXED
    return "vision" if sees else "speech" if hears else "text"


def split_by_modality(manifest: Path) -> dict[str, Path]:
    """Writes the lines of each modality beside the manifest; the mixed ones go nowhere."""
    lines: dict[str, list[bytes]] = {}
    for line in manifest.read_bytes().splitlines(keepends=True):
        lines.setdefault(modality_of(line), []).append(line)
    paths = {name: manifest.with_name(f"{name}_{manifest.name}") for name in lines if name != MIXED}
    for name, path in paths.items():
        path.write_bytes(b"".join(lines[name]))
    return paths


def modalities_of_tasks(world: Path) -> dict[str, str]:
    """By the test split and its facts."""
    with (world / "test.jsonl").open("rb") as lines, (world / "facts" / "test.jsonl").open("rb") as facts:
        return {json.loads(fact)["task"]: modality_of(line) for line, fact in zip(lines, facts, strict=True)}


def measure_parts(manifest: Path, config: Config, tokenizer: Path) -> dict[str, Part]:
    """Each modality's share of the tokens: its number of samples by their mean length, as training encodes them."""
    import numpy as np

    from ernie5.data.manifest import parse_line
    from ernie5.data.media_settings import MediaSettings
    from ernie5.data.sequence import encode_sample
    from ernie5.tokenizers.text import TextTokenizer

    text, media = TextTokenizer.from_pretrained(tokenizer), MediaSettings.of(config.model, config.data)
    rng, lines = np.random.default_rng(config.train.seed), {}
    for line in manifest.read_bytes().splitlines():
        lines.setdefault(modality_of(line), []).append(line)
    tokens, longest = {}, {}
    for name, own in lines.items():
        chosen = rng.choice(len(own), min(PROBES, len(own)), replace=False)
        samples = [parse_line(own[i], f"{manifest} ({name} {i + 1})", str(manifest.parent)) for i in chosen]
        dropout = config.tokenizer.bpe_dropout
        lengths = [len(encode_sample(sample, text, dropout, seed, media)) for seed, sample in enumerate(samples)]
        tokens[name], longest[name] = len(own) * sum(lengths) / len(lengths), max(lengths)
    return {name: Part(tokens[name] / sum(tokens.values()), longest[name]) for name in tokens}


# Training.


def shrunk(stage: StageConfig, part: Part, processes: int) -> StageConfig:
    """The stage with batches of the modality's share of the tokens: it sees each sample as often, in as many steps.

    Every process has a row of each batch, and some of the longest samples fit into a row; where batches would be
    smaller than that, there are fewer steps, the warm-up among them.
    """
    smallest = part.share * (stage.batch_start_tokens or stage.batch_tokens)
    rows = processes * math.ceil(smallest / (processes * stage.max_seq_len))
    row = min(stage.max_seq_len, max(ROW_SAMPLES * part.longest, round(smallest / rows)))

    def whole_rows(tokens: int) -> int:
        return processes * row * max(1, round(part.share * tokens / (processes * row)))

    batch = whole_rows(stage.batch_tokens)
    small = replace(
        stage,
        max_seq_len=row,
        batch_tokens=batch,
        num_tokens=max(1, round(part.share * stage.num_tokens / batch)) * batch,
        batch_start_tokens=whole_rows(stage.batch_start_tokens) if stage.batch_start_tokens else 0,
        batch_ramp_tokens=math.ceil(part.share * stage.batch_ramp_tokens),
    )
    return replace(small, warmup_steps=round(stage.warmup_steps * steps_left(small, 0) / steps_left(stage, 0)))


def stage_options(stages: tuple[StageConfig, ...]) -> dict[str, object]:
    keys = ("max_seq_len", "num_tokens", "batch_tokens", "batch_start_tokens", "batch_ramp_tokens", "warmup_steps")
    return {f"stages.{i}.{key}": getattr(stage, key) for i, stage in enumerate(stages) for key in keys}


def common_options(run_dir: Path, paths: dict[str, Path], config: Config, towers: set[str]) -> dict[str, object]:
    """What differs from the unified run: data, towers, and tokenizers, which are those of the run's own folder."""
    source = config.data.train[0].name
    options: dict[str, object] = {
        "data.train": json.dumps([{"name": source, "path": str(paths["train"])}]),
        "data.validation": json.dumps([{"name": source, "path": str(paths["validation"])}]),
        "data.too_long": "error",  # a text is not cut where a row ends, of which there are more than in the unified run
        "tokenizer.path": run_dir / "tokenizer",
        "generation.prompts": "[]",
        "generation.media_prompts": "[]",
        **{f"train.{kind}_steps": 0 for kind in ("eval", "sample", "save")},
    }
    if "vision" in towers and config.model.vision:
        folders = sorted((run_dir / "vision_tokenizers").iterdir())
        options["tokenizer.vision"] = json.dumps([str(folder) for folder in folders])
    else:
        options |= WITHOUT["vision"] | {f"stages.{i}.vision.switches": "[]" for i in range(len(config.stages))}
    if "audio" in towers and config.model.audio:
        options["tokenizer.audio"] = run_dir / "audio_tokenizer"
        options["tokenizer.speaker"] = run_dir / "speaker_encoder" if config.model.audio.speaker_dim else ""
    else:
        options |= WITHOUT["audio"]
    return options


def train(folder: Path, run_dir: Path, options: dict[str, object], arguments: argparse.Namespace) -> Path:
    """Trains into the folder what is not there; goes on with what was interrupted."""
    settings = [f"{key}={value}" for key, value in options.items()] + arguments.opt
    record, made = folder / "unification.json", {"processes": arguments.nproc_per_node, "settings": settings}
    if record.exists():
        if json.loads(record.read_text(encoding="utf-8")) != made:
            raise UserError(f"{folder}: was trained with other settings: remove it, or name another --output")
        return folder
    resume = ["--resume", "auto"] if any(folder.glob("checkpoints/step_*")) else []
    words = [word for option in (*settings, f"train.output_dir={folder}") for word in ("-o", option)]
    tool("train.py", "-c", run_dir / "config.yaml", *words, "--nproc_per_node", arguments.nproc_per_node, *resume)
    if not is_finished(folder):
        raise SystemExit(f"{folder}: the training was stopped; start this program again to go on")
    record.write_text(json.dumps(made, indent=1), encoding="utf-8")
    return folder


def is_finished(run_dir: Path) -> bool:
    """Whether the whole validation data was scored, as it is at the end."""
    from ernie5.train.metrics import FILE_NAME, read_metrics

    return any(record["kind"] == "eval" and record["complete"] for record in read_metrics(run_dir / FILE_NAME))


# Scores.


def judge(model: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, dict]:
    """The scores of tools/evaluate.py by their names, unless they are there already and younger than the model."""
    result = folder / "scores.json"
    options = {"num": arguments.num, "world": str(arguments.world.resolve())}
    options |= {"judge": str(arguments.judge.resolve())} if arguments.judge else {}
    if not is_fresh(result, model, {"judge": None} | options):
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        tool("evaluate.py", model, "--json", result, *words)
    return json.loads(result.read_text(encoding="utf-8"))["scores"]


def is_fresh(result: Path, model: Path, wanted: dict[str, object]) -> bool:
    if not result.exists() or result.stat().st_mtime < (model / "model.safetensors").stat().st_mtime:
        return False
    settings = json.loads(result.read_text(encoding="utf-8"))["settings"]
    return all(settings[key] == value for key, value in wanted.items())


def validation_loss(folder: Path, manifest: Path, stage: StageConfig) -> "Score":
    """Of a model folder on a manifest: the unified model's is of the samples that the other one has learned, too."""
    from ernie5.ops.runtime import start_paddle

    start_paddle(1)
    from ernie5.data.manifest import parse_line
    from ernie5.data.media_settings import MediaSettings
    from ernie5.data.packing import pack_all
    from ernie5.data.sequence import encode_sample
    from ernie5.inference.coders import load_coders
    from ernie5.modality.batch import Coders
    from ernie5.modality.vision_codes import VisionCoder
    from ernie5.model.folder import from_pretrained
    from ernie5.model.subnet import full_subnet
    from ernie5.parallel.parallelize import alone
    from ernie5.tokenizers.text import TextTokenizer
    from ernie5.train.evaluate import ValidationSet, evaluate

    model, tokenizer = from_pretrained(folder), TextTokenizer.from_pretrained(folder)
    media, lines = MediaSettings.uncorrupted(model.config), manifest.read_bytes().splitlines()
    samples = [parse_line(line, f"{manifest}:{i}", str(manifest.parent)) for i, line in enumerate(lines, 1)]
    encoded = (encode_sample(sample, tokenizer, media=media) for sample in samples)
    packed = list(pack_all(encoded, stage.max_seq_len, tokenizer.pad_id))
    validation = ValidationSet([row.row for row in packed], sum(row.num_bytes for row in packed))
    coders = load_coders(folder, model.config)
    if coders.vision is not None:  # weighs scales as the training did
        coders = Coders(VisionCoder(coders.vision.tokenizer, stage.vision.scale_weight_power), coders.audio)
    return evaluate(alone(model), validation, full_subnet(model.config), stage.micro_batch_rows, coders)


def tool(name: str, *arguments: object) -> None:
    """Runs a tool; what it says is shown, on the standard error."""
    command = [sys.executable, str(ROOT / "tools" / name), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if status := subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr).returncode:
        raise SystemExit(f"{shlex.join(command)} ended with status {status}")


if __name__ == "__main__":
    exit_cleanly(main)
