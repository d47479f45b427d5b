"""Scores a model on the digit world: what it answers by the truth, what it draws by the judge.

The model is two functions here, `answer` and `draw`; whoever calls makes them from a model folder.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ernie5.analysis.digits import Judge, motion
from ernie5.analysis.variety import Diversity, diversity, real_pictures, smallest_class
from ernie5.data.digits.render import CELL
from ernie5.data.digits.tasks import TASKS
from ernie5.data.digits.world import read_about
from ernie5.data.manifest import parse_line
from ernie5.data.sample import Audio, Image, Segment, Video
from ernie5.errors import UserError

Answer = Callable[[list[list[Segment]], int], list[str]]  # prompts, seed -> texts
# prompts, size, seed -> one medium each, uint8 [frames, height, width, 3]
Draw = Callable[[list[list[Segment]], "Size", int], list[np.ndarray]]
BATCH = 32  # prompts handed over at once


class Size(NamedTuple):
    """Of what is to be drawn."""

    height: int
    width: int
    num_frames: int


LAYOUTS = {"picture": (CELL, CELL), "row": (CELL, 2 * CELL), "column": (2 * CELL, CELL), "film": (CELL, CELL)}


class Case(NamedTuple):
    """A prompt, and what is right after it."""

    prompt: list[Segment]
    task: str
    language: str
    digits: tuple[int, ...]
    answer: str  # or none: something is drawn or said
    size: Size | None  # of what is drawn
    direction: str
    speed: str
    says: str = ""  # the digits that are to be said, "47"
    voice: str = ""  # of what is heard or said: espeak or recorded; empty without sound

    @property
    def name(self) -> str:
        """The task, told apart by voices that are synthesized and recorded."""
        return f"{self.task}, recorded" if self.voice == "recorded" else self.task


@dataclass
class Score:
    """How often something is right, over all and by language."""

    right: int = 0
    cases: int = 0
    by_language: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def share(self) -> float:
        return self.right / self.cases if self.cases else float("nan")

    def add(self, language: str, is_right: bool) -> None:
        right, cases = self.by_language.get(language, (0, 0))
        self.by_language[language] = (right + int(is_right), cases + 1)
        self.right, self.cases = self.right + int(is_right), self.cases + 1


class Drawing(NamedTuple):
    """What was asked for and what was drawn."""

    case: Case
    frames: np.ndarray  # uint8 [frames, height, width, 3]
    right: dict[str, bool]  # by aspect: digit, or of a film readable, direction, speed, digit and all


def load_cases(world: Path, split: str = "test", per_task: int = 0) -> list[Case]:
    """The first `per_task` samples of each task of a split (0: all). Raises UserError if `world` is no digit world."""
    about = read_about(world)
    if about is None:
        raise UserError(f"{world} is no digit world: make one with tools/make_digits.py --output {world}")
    cases, taken = [], defaultdict(int)
    manifest, facts = world / f"{split}.jsonl", world / "facts" / f"{split}.jsonl"
    try:
        with manifest.open("rb") as lines, facts.open(encoding="utf-8") as truths:
            for number, (line, truth) in enumerate(zip(lines, truths, strict=True), 1):
                case = _read_case(line, json.loads(truth), f"{manifest}:{number}", about["config"]["film_frames"])
                taken[case.name] += 1
                if not per_task or taken[case.name] <= per_task:
                    cases.append(case)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{world} is damaged ({error}): make it again with tools/make_digits.py") from None
    return cases


def _read_case(line: bytes, facts: dict, origin: str, film_frames: int) -> Case:
    sample = parse_line(line, origin, str(Path(origin).parent))
    answer, layout, last = facts.get("answer", ""), facts.get("layout", ""), sample.segments[-1]
    digits = tuple(facts.get("digits", ()))
    is_drawn = isinstance(last, Image | Video)
    return Case(
        prompt=list(sample.segments[:-1]),  # the last one is what is answered, drawn or said
        task=facts["task"],
        language=facts["language"],
        digits=digits,
        answer=answer,
        says="".join(map(str, digits)) if isinstance(last, Audio) else "",
        size=Size(*LAYOUTS[layout], film_frames if layout == "film" else 1) if is_drawn else None,
        direction=facts.get("direction", ""),
        speed=facts.get("speed", ""),
        voice=facts.get("voice", ""),
    )


def score_answers(
    cases: Sequence[Case], answer: Answer, seed: int, progress: Callable[[int], object]
) -> dict[str, Score]:
    """By task, how many texts are right. Cases that ask for anything else are left out."""
    scores: dict[str, Score] = defaultdict(Score)
    for number, batch in enumerate(batches([case for case in cases if case.answer])):
        for case, text in zip(batch, answer([case.prompt for case in batch], seed + number), strict=True):
            scores[case.name].add(case.language, is_right_answer(text, case.answer))
        progress(len(batch))
    return dict(scores)


def is_right_answer(text: str, expected: str) -> bool:
    """Whether the first word of `text`, case and punctuation aside, is the expected one."""
    words = text.split()
    return bool(words) and words[0].strip(".,;:!?。、，！？").casefold() == expected.casefold()


def draw_cases(
    cases: Sequence[Case], draw: Draw, judge: Judge, seed: int, progress: Callable[[int], object]
) -> list[Drawing]:
    """Draws what is asked for and has it judged. Cases that ask for anything else are left out."""
    by_size: dict[Size, list[Case]] = defaultdict(list)
    for case in cases:
        if case.size is not None:
            by_size[case.size].append(case)
    drawings = []
    for size, same_size in by_size.items():
        for batch in batches(same_size):
            media = np.stack(draw([case.prompt for case in batch], size, seed + len(drawings)))
            drawings += map(Drawing, batch, media, judge_media(judge, batch, media))
            progress(len(batch))
    return drawings


def judge_media(judge: Judge, cases: Sequence[Case], media: np.ndarray) -> list[dict[str, bool]]:
    """What is right of media of one size, uint8 [cases, frames, height, width, 3], by aspect.

    A film in which no digit can be read has no direction and no speed: a block that moves is no digit that does.
    """
    wanted = np.array([case.digits for case in cases])  # [cases, 1 or 2]
    if media.shape[1] > 1:
        moved, (digits, _) = motion(media), judge.film_digit(media)
        readable = digits >= 0
        aspects = {
            "readable": readable,
            "direction": readable & (moved.direction == np.array([case.direction for case in cases])),
            "speed": readable & (moved.speed == np.array([case.speed for case in cases])),
            "digit": digits == wanted[:, 0],
        }
        aspects["all"] = np.logical_and.reduce(list(aspects.values()))
    elif wanted.shape[1] == 2:
        right = judge.scene(media[:, 0]) == wanted
        aspects = {"first digit": right[:, 0], "second digit": right[:, 1], "all": right.all(1)}
    else:
        aspects = {"digit": judge.digit(media[:, 0])[0] == wanted[:, 0]}
    return [{name: bool(values[i]) for name, values in aspects.items()} for i in range(len(cases))]


def score_drawings(drawings: Iterable[Drawing]) -> dict[str, Score]:
    """By task and aspect, how many drawings are right."""
    scores: dict[str, Score] = defaultdict(Score)
    for drawing in drawings:
        for aspect, is_right in drawing.right.items():
            name = drawing.case.name if len(drawing.right) == 1 else f"{drawing.case.name}: {aspect}"
            scores[name].add(drawing.case.language, is_right)
    return dict(scores)


class Variety(NamedTuple):
    """How different drawings are, beside as many real pictures of training and of held-out scans."""

    drawn: Diversity
    train: Diversity
    test: Diversity
    drawn_confidence: float  # of the judge, median
    test_confidence: float


def measure_variety(drawings: Sequence[Drawing], judge: Judge) -> Variety | None:
    """Of the single digits drawn on request (task `draw`); None if there are fewer than two of each.

    As many of every digit, and no more than there are held-out scans of each: more pictures have nearer neighbours.
    """
    by_digit: dict[int, list[np.ndarray]] = {digit: [] for digit in range(10)}
    for drawing in drawings:
        if drawing.case.task == "draw":
            by_digit[drawing.case.digits[0]].append(drawing.frames[0])
    per_digit = min(smallest_class("test"), *map(len, by_digit.values()))
    if per_digit < 2:
        return None
    pictures = np.stack([picture for drawn in by_digit.values() for picture in drawn[:per_digit]])
    train, test = real_pictures("train", per_digit), real_pictures("test", per_digit)
    return Variety(
        drawn=diversity(pictures, np.repeat(np.arange(10), per_digit)),
        train=diversity(*train),
        test=diversity(*test)._replace(uncovered=None),  # they are the held-out scans
        drawn_confidence=float(np.median(judge.digit(pictures)[1])),
        test_confidence=float(np.median(judge.digit(test[0])[1])),
    )


def table(scores: dict[str, Score], variety: Variety | None) -> str:
    """All results as one text table, in the order of the tasks."""
    lines = [f"{'':<30}{'right':>8}{'cases':>8}"]
    for name in in_order(scores):
        lines.append(f"{name:<30}{scores[name].share:>8.1%}{scores[name].cases:>8}")
    if variety:
        lines.append(f"{'':<30}{'drawn':>8}{'train':>8}{'test':>8}")
        for name in Diversity._fields:
            unit = ".1%" if name in ("closer_to_train", "near_duplicates") else ".1f"
            values = [getattr(of, name) for of in (variety.drawn, variety.train, variety.test)]
            cells = "".join(f"{'':>8}" if value is None else f"{value:>8{unit}}" for value in values)
            lines.append(f"{name.replace('_', ' '):<30}{cells}")
        lines.append(f"{'confidence':<30}{variety.drawn_confidence:>8.2f}{'':>8}{variety.test_confidence:>8.2f}")
    return "\n".join(lines)


def as_record(scores: dict[str, Score], variety: Variety | None) -> dict:
    """All results for JSON."""
    record: dict = {"scores": {name: {"share": score.share, **asdict(score)} for name, score in scores.items()}}
    if variety:
        record["variety"] = {
            key: value._asdict() if isinstance(value, Diversity) else value for key, value in variety._asdict().items()
        }
    return record


def as_page(scores: dict[str, Score], variety: Variety | None) -> dict:
    """All results as the report of a run shows them: `header`, `rows` and `note`."""
    rows = [[name, f"{scores[name].share:.1%}", f"{scores[name].cases:,}"] for name in in_order(scores)]
    note = (
        "Held-out scans and voices. What is drawn is judged by a classifier and a motion estimator, what is said by a "
        "recogniser of digits; none of them has seen or heard the model, nor the model what they learned from."
    )
    if variety:
        note += (
            f" Of drawn digits {variety.drawn.closer_to_train:.0%} are nearer to a training scan than to one not "
            f"seen (real held-out ones {variety.test.closer_to_train:.0%}); they vary within a class by "
            f"{variety.drawn.class_deviation:.1f} greys ({variety.test.class_deviation:.1f}), "
            f"{variety.drawn.near_duplicates:.1%} are near duplicates of another, and held-out scans are "
            f"{variety.drawn.uncovered:.1f} greys from the nearest (training scans {variety.train.uncovered:.1f})."
        )
    return {"header": ["task", "right", "cases"], "rows": rows, "note": note}


def in_order(names: Iterable[str]) -> list[str]:
    """Names of scores in the order of their tasks, "task: aspect" behind "task"."""
    return sorted(names, key=lambda name: list(TASKS).index(name.split(":")[0].split(",")[0]))


def batches(cases: Sequence[Case]) -> Iterable[Sequence[Case]]:
    """Of at most BATCH."""
    return (cases[start : start + BATCH] for start in range(0, len(cases), BATCH))
