"""The tasks of the digit world: what a sample shows, says and asks for. The one table of them is TASKS."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from ernie5.data.digits import spoken
from ernie5.data.digits.deck import Deck
from ernie5.data.digits.studio import STEPS, TRAVEL, Facts, Medium, Sample, Samples, Studio
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
from ernie5.data.digits.voices import Speech, Voices

__all__ = ["STEPS", "TASKS", "TRAVEL", "Facts", "Medium", "Sample", "Studio", "make_samples"]

# Where the first of two digits stands when it is the one named.
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


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
    """How samples are made, and how many there are beside those of the other tasks."""

    make: Callable[[Studio, str], Samples]
    weight: int
    is_spoken: bool = False  # has sounds


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
    "listen": Task(spoken.hear, 130, is_spoken=True),
    "transcribe": Task(spoken.hear, 30, is_spoken=True),
    "listen_sum": Task(spoken.hear_sum, 40, is_spoken=True),
    "speak": Task(spoken.speak, 160, is_spoken=True),
    "speak_two": Task(spoken.speak_two, 20, is_spoken=True),
    "draw_heard": Task(spoken.draw_heard, 40, is_spoken=True),
    "say_seen": Task(spoken.say_seen, 60, is_spoken=True),
    "add_seen_heard": Task(spoken.add_seen_heard, 40, is_spoken=True),
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
    speech: Speech | None = None,
) -> list[Sample]:
    """`count` samples of a task from the scans `ids`; `digits` int64 [scans] are those of all scans.

    A spoken task needs `speech`, the sounds of the split.
    """
    voices = Voices(speech, rng) if speech else None
    samples = TASKS[task].make(Studio(digits, ids, rng, vary, num_frames, voices), task)
    return [next(samples) for _ in range(count)]
