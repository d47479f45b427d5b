"""The tasks of the digit world: what a sample shows, says and asks for. The one table of them is TASKS."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from ernie5.data.digits.render import CELL, Glyph, film_glyph, picture_glyph
from ernie5.data.digits.texts import (
    DIRECTIONS,
    NUMBER_WORDS,
    RELATIONS,
    SIDES,
    SPEED_ADVERBS,
    SPEEDS,
    choose_language,
    say,
)
from ernie5.data.sample import MediaRole

# Rows and columns a frame of a digit that moves there.
STEPS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
# Pixels from the first frame to the last. 6 is as far as a digit of 9 pixels can go and stay inside 16.
TRAVEL = {"slow": 3.0, "fast": 6.0}
# Where the first of two digits stands when it is the one named.
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Medium:
    """A picture (one frame) or a film to be drawn: the glyphs of each frame."""

    height: int
    width: int
    frames: tuple[tuple[Glyph, ...], ...]
    role: MediaRole


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is true of a sample: what it is scored by. Empty where it does not apply."""

    task: str
    language: str
    digits: tuple[int, ...] = ()  # shown or asked for, first to last as they stand in the picture
    scans: tuple[int, ...] = ()  # ids of all scans in its media
    answer: str = ""  # the text that is right, or none: a medium is generated
    layout: str = ""  # of the medium: picture, row (left and right), column (above and below) or film
    direction: str = ""
    speed: str = ""

    def as_record(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value not in ("", ())}


class Sample(NamedTuple):
    """What is read (asked, shown), then what is answered: a text or a medium."""

    parts: tuple[str | Medium, ...]
    answer: str | Medium
    facts: Facts


class Deck:
    """Deals items in random order, each as often as any other; shuffled anew when it is empty."""

    def __init__(self, items: list, rng: np.random.Generator):
        self.items, self.rng, self.left = items, rng, []

    def deal(self) -> Any:
        if not self.left:
            self.left = self.rng.permutation(len(self.items)).tolist()
        return self.items[self.left.pop()]


class Studio:
    """Scans, chance and style of one task in one split."""

    def __init__(self, digits: np.ndarray, ids: np.ndarray, rng: np.random.Generator, vary: bool, num_frames: int):
        self.rng, self.num_frames = rng, num_frames
        self.style = rng if vary else None
        self.scans = [Deck(ids[digits[ids] == digit].tolist(), rng) for digit in range(10)]

    def scan(self, digit: int) -> int:
        return self.scans[digit].deal()

    def picture(self, scan: int, role: MediaRole) -> Medium:
        glyph = picture_glyph(scan, CELL / 2, CELL / 2, self.style)
        return Medium(CELL, CELL, ((glyph,),), role)

    def scene(self, scans: tuple[int, int], layout: str, role: MediaRole) -> Medium:
        """Two digits side by side (row) or one above the other (column)."""
        middles = (CELL / 2, 3 * CELL / 2)
        if layout == "row":
            glyphs = [picture_glyph(s, CELL / 2, m, self.style) for s, m in zip(scans, middles, strict=True)]
            return Medium(CELL, 2 * CELL, (tuple(glyphs),), role)
        glyphs = [picture_glyph(s, m, CELL / 2, self.style) for s, m in zip(scans, middles, strict=True)]
        return Medium(2 * CELL, CELL, (tuple(glyphs),), role)

    def film(self, scan: int, direction: str, speed: str, role: MediaRole) -> Medium:
        """A digit that moves evenly along its direction and stays inside; it starts anywhere from where it can."""
        glyph = film_glyph(scan, 0, 0, self.style)
        half, travel = 4 * glyph.scale, TRAVEL[speed]
        low, high = half, CELL - half
        middle = np.array([self.rng.uniform(low, high) for _ in range(2)])
        step = np.array(STEPS[direction], float)
        axis = int(np.flatnonzero(step)[0])
        start = self.rng.uniform(low, high - travel)
        middle[axis] = start if step[axis] > 0 else CELL - start
        places = [middle + step * travel * k / (self.num_frames - 1) for k in range(self.num_frames)]
        return Medium(CELL, CELL, tuple((glyph.moved(row, column),) for row, column in places), role)


Samples = Iterator[Sample]


def _read(studio: Studio, task: str) -> Samples:
    digits = Deck(list(range(10)), studio.rng)
    while True:
        digit, language = digits.deal(), choose_language(task, studio.rng)
        scan = studio.scan(digit)
        answer = NUMBER_WORDS[language][digit] if task == "caption" else str(digit)
        facts = Facts(task=task, language=language, digits=(digit,), scans=(scan,), answer=answer, layout="picture")
        yield Sample((studio.picture(scan, "understand"), say(task, language, studio.rng)), answer, facts)


def _draw(studio: Studio, task: str) -> Samples:
    digits = Deck(list(range(10)), studio.rng)
    while True:
        digit, language = digits.deal(), choose_language(task, studio.rng)
        scan = studio.scan(digit)
        facts = Facts(task=task, language=language, digits=(digit,), scans=(scan,), layout="picture")
        yield Sample((say(task, language, studio.rng, digit),), studio.picture(scan, "generate"), facts)


def _draw_sum(studio: Studio, task: str) -> Samples:
    pairs = Deck([(a, b) for a, b in product(range(10), repeat=2) if a + b < 10], studio.rng)
    while True:
        (a, b), language = pairs.deal(), choose_language(task, studio.rng)
        scan = studio.scan(a + b)
        facts = Facts(task=task, language=language, digits=(a + b,), scans=(scan,), layout="picture")
        yield Sample((say(task, language, studio.rng, a=a, b=b),), studio.picture(scan, "generate"), facts)


def _add(studio: Studio, task: str) -> Samples:
    pairs = Deck(list(product(range(10), repeat=2)), studio.rng)
    while True:
        (a, b), language = pairs.deal(), choose_language(task, studio.rng)
        facts = Facts(task=task, language=language, answer=str(a + b))
        yield Sample((say(task, language, studio.rng, a=a, b=b),), facts.answer, facts)


def _scenes(studio: Studio) -> Iterator[tuple[tuple[int, int], str]]:
    """Two digits and their layout, all equally often."""
    deck = Deck(list(product(product(range(10), repeat=2), ("row", "column"))), studio.rng)
    while True:
        yield deck.deal()


def _scene_read(studio: Studio, task: str) -> Samples:
    """Which digit stands there, where one of two stands, what both sum up to."""
    for digits, layout in _scenes(studio):
        if task == "scene_where" and digits[0] == digits[1]:
            continue
        language = choose_language(task, studio.rng)
        sides = [SIDES[language][side] for side in (("left", "right") if layout == "row" else ("above", "below"))]
        asked = int(studio.rng.integers(2))
        answer = {"scene_which": str(digits[asked]), "scene_where": sides[asked], "scene_sum": str(sum(digits))}[task]
        scans = tuple(studio.scan(digit) for digit in digits)
        question = say(task, language, studio.rng, digits[asked], side=sides[asked])
        facts = Facts(task=task, language=language, digits=digits, scans=scans, answer=answer, layout=layout)
        yield Sample((studio.scene(scans, layout, "understand"), question), answer, facts)


def _scene_draw(studio: Studio, task: str) -> Samples:
    for digits, layout in _scenes(studio):
        language = choose_language(task, studio.rng)
        relation, (a, b) = ("left" if layout == "row" else "above"), digits
        if studio.rng.random() < 0.5:
            relation, a, b = OPPOSITE[relation], b, a
        request = say(task, language, studio.rng, a=a, b=b, relation=RELATIONS[language][relation])
        scans = tuple(studio.scan(digit) for digit in digits)
        facts = Facts(task=task, language=language, digits=digits, scans=scans, layout=layout)
        yield Sample((request,), studio.scene(scans, layout, "generate"), facts)


def _film(studio: Studio, task: str) -> Samples:
    """A film that is asked for, or a question about one."""
    deck = Deck(list(product(range(10), STEPS, TRAVEL)), studio.rng)
    while True:
        (digit, direction, speed), language = deck.deal(), choose_language(task, studio.rng)
        scan = studio.scan(digit)
        facts = Facts(
            task=task,
            language=language,
            digits=(digit,),
            scans=(scan,),
            answer=_film_answer(task, language, digit, direction, speed),
            layout="film",
            direction=direction,
            speed=speed,
        )
        film = studio.film(scan, direction, speed, "understand" if facts.answer else "generate")
        if facts.answer:
            yield Sample((film, say(task, language, studio.rng)), facts.answer, facts)
            continue
        words = {"direction": DIRECTIONS[language][direction], "speed": SPEED_ADVERBS[language][speed]}
        yield Sample((say(task, language, studio.rng, digit, **words),), film, facts)


def _film_answer(task: str, language: str, digit: int, direction: str, speed: str) -> str:
    if task == "film_direction":
        return DIRECTIONS[language][direction]
    if task == "film_speed":
        return SPEEDS[language][speed]
    return str(digit) if task == "film_digit" else ""


def _follow(studio: Studio, task: str) -> Samples:
    """A picture is seen, another is asked for: the next digit, or the same one by another hand."""
    step = 1 if task == "next" else 0
    digits = Deck(list(range(10 - step)), studio.rng)
    while True:
        digit, language = digits.deal(), choose_language(task, studio.rng)
        scans = (studio.scan(digit), studio.scan(digit + step))
        shown, drawn = studio.picture(scans[0], "understand"), studio.picture(scans[1], "generate")
        facts = Facts(task=task, language=language, digits=(digit + step,), scans=scans, layout="picture")
        yield Sample((shown, say(task, language, studio.rng)), drawn, facts)


class Task(NamedTuple):
    """How samples are made, and how many a thousand of the world's are of this task."""

    make: Callable[[Studio, str], Samples]
    weight: int


TASKS: dict[str, Task] = {
    "read": Task(_read, 240),
    "caption": Task(_read, 40),
    "draw": Task(_draw, 300),
    "draw_sum": Task(_draw_sum, 50),
    "add": Task(_add, 20),
    "scene_which": Task(_scene_read, 45),
    "scene_where": Task(_scene_read, 15),
    "scene_sum": Task(_scene_read, 60),
    "scene_draw": Task(_scene_draw, 45),
    "animate": Task(_film, 115),
    "film_direction": Task(_film, 20),
    "film_speed": Task(_film, 10),
    "film_digit": Task(_film, 15),
    "next": Task(_follow, 15),
    "copy": Task(_follow, 10),
}


def make_samples(
    task: str,
    count: int,
    digits: np.ndarray,
    ids: np.ndarray,
    rng: np.random.Generator,
    *,
    vary: bool,
    num_frames: int,
) -> list[Sample]:
    """`count` samples of a task from the scans `ids`; `digits` int64 [scans] are those of all scans."""
    samples = TASKS[task].make(Studio(digits, ids, rng, vary, num_frames), task)
    return [next(samples) for _ in range(count)]
