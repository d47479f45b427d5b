"""The page of unification.py: tables of scores and losses side by side, and what they say."""

import datetime
import math
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ernie5.analysis.digit_world import in_order
from ernie5.config.schema import StageConfig
from ernie5.train.metrics import FILE_NAME, read_metrics
from ernie5.train.schedule import steps_left

if TYPE_CHECKING:
    from ernie5.train.evaluate import Score

MODALITIES = ("vision", "speech", "text")
BY_CHANCE = 0.0455  # of differences of nothing lie outside two standard errors
UNITS = {"loss": "text, nats a token", "loss_vision": "vision, nats a bit", "loss_audio": "speech, nats a code"}


class Contestant(NamedTuple):
    """A run and what it is worth."""

    name: str
    modality: str  # that it learned alone; empty: all
    run_dir: Path
    share: float | None  # of the unified run's tokens; None: all
    stages: tuple[StageConfig, ...]
    scores: Mapping[str, Mapping]  # of tools/evaluate.py: `share` and `cases` by name
    losses: Mapping[str, "Score"] = {}  # on the validation samples of a modality


class Difference(NamedTuple):
    """Of the unified model to another in one score, in shares."""

    name: str
    points: float
    error: float  # standard error, as if the cases were independent draws

    @property
    def is_clear(self) -> bool:
        return abs(self.points) > 2 * self.error

    def __str__(self) -> str:
        return f"{100 * self.points:+.1f} ± {100 * self.error:.1f}"


def difference(name: str, unified: Mapping, other: Mapping) -> Difference:
    """Of two scores, each with `share` and `cases`."""
    variance = sum(score["share"] * (1 - score["share"]) / score["cases"] for score in (unified, other))
    return Difference(name, unified["share"] - other["share"], math.sqrt(variance))


def page(contestants: Sequence[Contestant], modalities: Mapping[str, str], command: str) -> str:
    """`contestants`: the unified one first. `modalities`: by task."""
    unified, others = contestants[0], contestants[1:]
    singles = {other.modality: other for other in others if other.modality}
    balances = [other for other in others if not other.modality]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    parts = [
        "# One model for all modalities, and one for each",
        f"{datetime.date.today()}, commit {commit.stdout.strip() or 'unknown'}, Python {platform.python_version()}, "
        f"one run each.\n\n```bash\n{command}\n```",
        "Each model of one modality has the backbone of the unified one and as many active parameters, but for the "
        "towers that it does not need; the same tokenizers, seed and schedule. Its batches are smaller by its share "
        "of the tokens, so that it sees each of its samples about as often, in as many steps where batches are not too "
        "small for that.",
        runs_table(contestants),
        "Right answers of the test split. The difference is unified less the other, in points, with its standard error "
        "as if cases were independent draws (all models have the same cases, so it is rather too large).",
        score_table(unified, singles, balances, modalities),
        *(conclusion(title, found) for title, found in comparisons(unified, singles, balances, modalities)),
        "Losses on the validation samples of a modality, of all models alike:",
        loss_table(contestants),
    ]
    return "\n\n".join(parts) + "\n"


def runs_table(contestants: Iterable[Contestant]) -> str:
    rows = ["| model | share of the tokens | steps | tokens a step | parameters, active |", "|---|---:|---:|---:|---:|"]
    for one in contestants:
        records = read_metrics(one.run_dir / FILE_NAME)
        counts = next((record["parameters"] for record in records if record["kind"] == "run"), None)
        size = f"{counts['total']:,}, {counts['active']:,}" if counts else ""
        steps = sum(steps_left(stage, 0) for stage in one.stages)
        taken = max((record.get("step", 0) for record in records), default=steps)  # train.max_steps ends a run early
        batches = ", ".join(f"{stage.batch_tokens:,}" for stage in one.stages)
        share = "" if one.share is None else f"{one.share:.1%}"
        rows.append(f"| {one.name} | {share} | {min(steps, taken):,} | {batches} | {size} |")
    return "\n".join(rows)


def score_table(
    unified: Contestant,
    singles: Mapping[str, Contestant],
    balances: Sequence[Contestant],
    modalities: Mapping[str, str],
) -> str:
    """A row a score; where there is no model of the score's modality alone, it is the unified model's only."""
    titles = ["task", "modality", "cases", "unified", "alone", "difference"]
    titles += [title for other in balances for title in (other.name, "difference")]
    rows = [f"| {' | '.join(titles)} |", f"|---|---|{'---:|' * (len(titles) - 2)}"]
    for name in in_order(unified.scores):
        modality, score = modalities[task_of(name)], unified.scores[name]
        cells = [name, modality, str(score["cases"]), f"{score['share']:.1%}"]
        rivals = [singles.get(modality), *balances]
        for rival in rivals:
            other = rival.scores.get(name) if rival else None
            missing = ["only the unified model", ""]
            cells += [f"{other['share']:.1%}", str(difference(name, score, other))] if other else missing
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def comparisons(
    unified: Contestant,
    singles: Mapping[str, Contestant],
    balances: Sequence[Contestant],
    modalities: Mapping[str, str],
) -> Iterable[tuple[str, list[Difference]]]:
    """Title and differences: to the models of one modality together, then to each other balance."""

    def found(rival_of) -> list[Difference]:
        pairs = ((name, rival_of(name)) for name in in_order(unified.scores))
        return [
            difference(name, unified.scores[name], rival.scores[name])
            for name, rival in pairs
            if rival and name in rival.scores
        ]

    yield "Beside the models of one modality", found(lambda name: singles.get(modalities[task_of(name)]))
    for other in balances:
        yield f"Beside {other.name}", found(lambda name, other=other: other)


def task_of(score: str) -> str:
    """ "animate: direction" and "listen, recorded" -> animate, listen."""
    return score.split(":")[0].split(",")[0]


def conclusion(title: str, differences: Sequence[Difference]) -> str:
    """One sentence: what exceeds two standard errors, the largest gain and the largest loss."""
    if not differences:
        return f"{title} there is nothing to compare."
    better = sum(one.is_clear and one.points > 0 for one in differences)
    worse = sum(one.is_clear and one.points < 0 for one in differences)
    best, worst = (choose(differences, key=lambda one: one.points) for choose in (max, min))
    gain = f"its largest gain is {best.name} ({best} points)" if best.points > 0 else "it gains nowhere"
    loss = f"its largest loss {worst.name} ({worst} points)" if worst.points < 0 else "it loses nowhere"
    return (
        f"{title} the unified model is better by more than two standard errors in {better} of {len(differences)} "
        f"scores and worse in {worse} (by chance alone about {BY_CHANCE * len(differences):.1f} would be either); "
        f"{gain}, {loss}."
    )


def loss_table(contestants: Sequence[Contestant]) -> str:
    """A row for each loss of each modality's samples, a column for each model that has it."""
    unified, *others = contestants
    balances = [other for other in others if not other.modality]
    titles = ["samples", "loss", "unified", "alone", *(other.name for other in balances)]
    rows = [f"| {' | '.join(titles)} |", f"|---|---|{'---:|' * (len(titles) - 2)}"]
    for alone in (other for other in others if other.modality):
        for key, unit in UNITS.items():
            values = [getattr(one.losses[alone.modality], key) for one in (unified, alone, *balances)]
            if values[0] is not None:
                cells = [f"{value:.3f}" for value in values]
                rows.append(f"| {' | '.join([alone.modality, unit, *cells])} |")
    return "\n".join(rows)
