"""`report.html`: what a run did, read from its folder alone (`config.yaml`, `metrics.jsonl`)."""

import math
import statistics
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any

import yaml

from ernie5.errors import UserError
from ernie5.train.charts import Point, Series, compact, heat_map, legend, line_chart, ramp, share_map, smooth
from ernie5.train.metrics import FILE_NAME, read_metrics
from ernie5.train.report_page import card, figure, page, table
from ernie5.train.report_samples import samples_section, scores_section

MAX_EVENTS = 40
A, B, C, D, E, F = (f"var(--{name})" for name in "abcdef")
MODALITY_COLORS = {"text": A, "mtp": D, "vision": C, "audio": F}
KIND_NAMES = {"vision_understanding": "vision seen", "vision_generation": "vision drawn"}

Record = dict[str, Any]


def write_report(run_dir: Path | str) -> Path:
    """Writes one self-contained page with the run's figures, curves, expert balance, samples and configuration."""
    run_dir = Path(run_dir)
    records = read_metrics(run_dir / FILE_NAME)
    if not records:
        raise UserError(f"{run_dir}: has no records in {FILE_NAME}; name the folder of a run that has trained")
    by_kind: dict[str, list[Record]] = {kind: [] for kind in ("run", "train", "eval", "sample", "event")}
    for record in records:
        by_kind.setdefault(str(record.get("kind")), []).append(record)
    config_path = run_dir / "config.yaml"
    config_text = config_path.read_text(encoding="utf-8") if config_path.exists() else ""
    config = yaml.safe_load(config_text) or {}
    run = by_kind["run"][-1] if by_kind["run"] else {}
    html = page(
        title=f"{config.get('model', {}).get('name', 'Training run')}",
        subtitle=f"Training report of {run_dir}" + (f" · {run['device']}" if run.get("device") else ""),
        sections=[
            _figures(run, by_kind),
            _curves(by_kind),
            scores_section(run_dir),
            _modalities(by_kind["train"]),
            _balance(by_kind["train"]),
            _expert_use(by_kind.get("expert_use", [])),
            _members(config, by_kind["eval"]),
            samples_section(by_kind["sample"], run_dir),
            _events_and_environment(run, by_kind["event"]),
            _configuration(config_text),
        ],
    )
    path = run_dir / "report.html"
    path.write_text(html, encoding="utf-8", errors="replace")  # a sample may hold a lone surrogate
    return path


def _figures(run: Record, by_kind: dict[str, list[Record]]) -> str:
    """The numbers a reader looks for first; one that the run has not produced yet is left out."""
    shown = []
    evaluations = [record for record in by_kind["eval"] if record.get("bits_per_byte") is not None]
    if evaluations:
        last = evaluations[-1]
        scope = "whole validation set" if last.get("complete") else f"step {last['step']}"
        shown.append(figure(f"{last['bits_per_byte']:.3f}", f"validation bits per byte, {scope}", lead=True))
        shown.append(figure(f"{last['loss']:.3f}", "validation loss, nats a token"))
        if last.get("loss_vision") is not None:
            shown.append(figure(f"{last['loss_vision']:.3f}", "loss of pictures and films, nats a bit"))
        if last.get("loss_audio") is not None:
            shown.append(figure(f"{last['loss_audio']:.3f}", "loss of speech, nats a code"))
    parameters = run.get("parameters", {})
    if parameters:
        shown.append(figure(compact(parameters["total"]), "parameters"))
        label = f"active for a token, {100 * parameters['share']:.3g} % of the backbone"
        shown.append(figure(compact(parameters["active"]), label))
    steps = by_kind["train"]
    if steps:
        last = steps[-1]
        shown.append(figure(compact(last["tokens"]), f"tokens in {last['step']:,} steps"))
        if last.get("seconds") is not None:
            shown.append(figure(_duration(last["seconds"]), "spent in training steps"))
        speeds = [y for _, y in _points(steps, "tokens_per_s")]
        if speeds:
            shown.append(figure(compact(statistics.median(speeds)), "tokens a second, median"))
    return f'<div class="figures">{"".join(shown)}</div>'


def _curves(by_kind: dict[str, list[Record]]) -> str:
    steps, evaluations = by_kind["train"], by_kind["eval"]
    marks = _stage_marks(steps)
    members = list(dict.fromkeys(name for record in evaluations for name in record.get("members", {})))
    colors = [C, D, E, B, F]
    bits = [Series("full model", _points(evaluations, "bits_per_byte"), A, dots=True)]
    for i, name in enumerate(members):
        points = _points(
            evaluations, lambda record, name=name: record.get("members", {}).get(name, {}).get("bits_per_byte")
        )
        bits.append(Series(name, points, colors[i % len(colors)], dots=True))
    charts = [
        ("Loss of text, nats a token", _training_and_validation("loss_text", A, steps, evaluations, "loss")),
        ("Validation bits per byte", bits),
        ("Loss of pictures and films, nats a bit", _training_and_validation("loss_vision", C, steps, evaluations)),
        ("Loss of speech, nats a code", _training_and_validation("loss_audio", F, steps, evaluations)),
        ("Loss of multi-token prediction", _with_median("training", _points(steps, "loss_mtp"), D)),
        ("Learning rate", [Series("learning rate", _points(steps, "lr"), C)]),
        ("Gradient norm, before clipping", _with_median("global norm", _points(steps, "grad_norm"), E)),
        ("Tokens a second", _with_median("this run", _points(steps, "tokens_per_s"), A)),
        ("Tokens in a step", [Series("batch", _points(steps, "batch_tokens"), B)]),
    ]
    cards = [
        card(title, (legend(series) if len([s for s in series if not s.faint]) > 1 else "") + line_chart(series, marks))
        for title, series in charts
        if any(line.points for line in series) and not (title == "Tokens in a step" and _is_flat(series[0].points))
    ]
    return f'<h2>Curves</h2><div class="charts">{"".join(cards)}</div>' if cards else ""


def _training_and_validation(
    key: str, color: str, steps: list[Record], evaluations: list[Record], validation_key: str = ""
) -> list[Series]:
    losses = _points(steps, key)
    return [
        Series("each step", losses, color, faint=True),
        Series("training, smoothed", smooth(losses), color),
        Series("validation", _points(evaluations, validation_key or key), B, dots=True),
    ]


def _modalities(steps: list[Record]) -> str:
    """What each modality costs, weighs in the objective and pulls at what all share; of a run with more than text."""
    names = list(dict.fromkeys(name for record in steps for name in record.get("modalities", {})))
    if not set(names) - {"text", "mtp"}:
        return ""
    charts = []
    for title, key, note in (
        (
            "Loss of each modality",
            "loss",
            "Text and multi-token prediction in nats a token, vision a bit, audio a code.",
        ),
        ("Weight of each modality's loss", "weight", "What the loss is multiplied by in the objective."),
        (
            "Gradient norm of each modality",
            "grad_norm",
            "Of its weighted loss alone, at the last layer that all modalities share.",
        ),
    ):
        series = []
        for name in names:
            points = _points(
                steps, lambda record, name=name, key=key: record.get("modalities", {}).get(name, {}).get(key)
            )
            series.append(Series(name, points if key == "weight" else smooth(points), MODALITY_COLORS.get(name, B)))
        if any(line.points for line in series):
            charts.append(card(title, legend(series) + line_chart(series, _stage_marks(steps)), note))
    return f'<h2>Balance of the modalities</h2><div class="charts">{"".join(charts)}</div>' if charts else ""


def _expert_use(uses: list[Record]) -> str:
    """Who is sent where: a map a layer, of the run's end."""
    if not uses or len(uses[-1]["tokens"]) < 2:
        return ""
    last = uses[-1]
    most = math.log2(len(last["tokens"]))
    top = max(max(row) for layer in last["shares"] for row in layer.values())
    charts = []
    for layer_id, shares, bits in zip(last["layers"], last["shares"], last["bits"], strict=True):
        named = {KIND_NAMES.get(kind, kind): row for kind, row in shares.items()}
        charts.append(card(f"Layer {layer_id}: {bits:.3f} bits", share_map(named, top)))
    counts = ", ".join(f"{number:,} {KIND_NAMES.get(kind, kind)}" for kind, number in last["tokens"].items())
    note = (
        "The share of each kind's tokens that an expert gets (as report §6.4.1, Fig. 8), and the mutual information of "
        f"kind and expert with all kinds equally likely: 0 bits if all use the experts alike, {most:.2f} if they share "
        f"none. Validation tokens: {counts}."
    )
    head = f'<h2>Experts of the modalities</h2><p class="note">{escape(note)}</p>'
    return f'{head}<div class="charts">{"".join(charts)}</div>'


def _balance(steps: list[Record]) -> str:
    charts = []
    for title, key, note in (
        ("Fullest expert", "max_over_mean", "Load of the fullest expert over the mean load; 1 is even."),
        ("Evenness of the load", "entropy", "Entropy of the load over its maximum; 1 is even."),
    ):
        layers = max((len(record.get(key) or ()) for record in steps), default=0)
        series = [Series(f"layer {i}", _points(steps, _item_of(key, i)), ramp(i, layers)) for i in range(layers)]
        if layers:
            charts.append(card(title, legend(series[:: max(1, layers // 8)]) + line_chart(series), note))
    with_load = [record for record in steps if record.get("load")]
    if not charts and not with_load:
        return ""
    heat = ""
    if with_load:
        last = with_load[-1]
        note = f"Step {last['step']:,}; rows are layers, columns experts."
        heat = card("Load of every expert", heat_map(last["load"]), note, "wide")
    return f'<h2>Balance of the experts</h2><div class="charts">{"".join(charts)}</div>{heat}'


def _members(config: Record, evaluations: list[Record]) -> str:
    with_members = [record for record in evaluations if record.get("members")]
    if not with_members:
        return ""
    last = with_members[-1]
    shapes = {member["name"]: member for member in config.get("members") or ()}
    rows = [["full model", "all", "all", "full", *_scores(last, last)]]
    for name, score in last["members"].items():
        shape = shapes.get(name, {})
        sizes = [shape.get("num_layers"), shape.get("num_experts"), shape.get("top_k")]
        rows.append([name, *(str(size or word) for size, word in zip(sizes, ("all", "all", "full"), strict=True))])
        rows[-1] += _scores(score, last)
    header = ["member", "layers", "experts", "top-k", "loss", "bits per byte", "against the full model"]
    body = table(header, rows)
    return f'<h2>The elastic family</h2><div class="card">{body}</div>'


def _scores(score: Record, full: Record) -> list[str]:
    loss, bits = score.get("loss"), score.get("bits_per_byte")
    if loss is None or bits is None or full.get("bits_per_byte") is None:
        return ["not finite", "", ""]
    against = "" if score is full else f"{100 * (bits / full['bits_per_byte'] - 1):+.1f} %"
    return [f"{loss:.3f}", f"{bits:.3f}", against]


def _events_and_environment(run: Record, events: list[Record]) -> str:
    cards = []
    if events:
        rows = [[f"{record.get('step', 0):,}", str(record.get("text", ""))] for record in events[-MAX_EVENTS:]]
        cards.append(card("Events", table(["step", "what happened"], rows, first_number=2)))
    versions = run.get("versions", {})
    if versions:
        rows = [[str(name), str(version)] for name, version in versions.items()]
        cards.append(card("Environment", table([], rows, first_number=2)))
    return f'<h2>Run</h2><div class="columns">{"".join(cards)}</div>' if cards else ""


def _configuration(text: str) -> str:
    if not text:
        return ""
    return f'<details class="card"><summary>Resolved configuration</summary><pre>{escape(text)}</pre></details>'


def _points(records: Iterable[Record], key: str | Callable[[Record], float | None]) -> list[Point]:
    """(step, value) of the records that have the value; one that was not finite was written as null."""
    take = key if callable(key) else lambda record: record.get(key)
    pairs = ((record.get("step", 0), take(record)) for record in records)
    return [(step, value) for step, value in pairs if value is not None]


def _item_of(key: str, index: int) -> Callable[[Record], float | None]:
    def take(record: Record) -> float | None:
        values = record.get(key) or ()
        return values[index] if index < len(values) else None

    return take


def _with_median(label: str, points: list[Point], color: str) -> list[Series]:
    return [Series("each step", points, color, faint=True), Series(label, smooth(points), color)]


def _is_flat(points: list[Point]) -> bool:
    return len({y for _, y in points}) < 2


def _stage_marks(steps: list[Record]) -> list[tuple[float, str]]:
    """Where the second stage and those after it begin."""
    marks, previous = [], None
    for record in steps:
        if record.get("stage") != previous:
            previous = record.get("stage")
            marks.append((record["step"], str(previous)))
    return marks[1:]


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {seconds}s" if minutes else f"{seconds}s"
