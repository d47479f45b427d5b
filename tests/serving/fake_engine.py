"""An engine that answers by the words of its prompt: slow, failing or out of room on demand."""

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from ernie5.data.sample import Image, Text
from ernie5.errors import UserError
from ernie5.inference.request import Choices, Event, Finished, JsonSchema, Request, Sound, Statistics, Usage
from ernie5.serving.template import segments_of

MAX_PAGES = 100


def prompt_text(request: Request) -> str:
    return "".join(segment.text for segment in segments_of(request) if isinstance(segment, Text))


class FakeEngine:
    """Echoes: the answer to "a b" is "you said: a b". A prompt that says one of these words has it otherwise:

    count: numbers, one a step, up to max_new_tokens; flood: as many pieces of 64 KiB; fail: the request fails after two
    words; crash: so does the step; wreck: so do all steps; refuse: UserError; draw, speak: a medium between words,
    where the request lets it.
    """

    def __init__(self, step_seconds: float = 0.0):
        self.step_seconds = step_seconds
        self.steps = 0
        self.requests: list[Request] = []
        self.cancelled: list[int] = []
        self.is_wrecked = False
        self.thread: threading.Thread | None = None
        self._numbers = itertools.count(1)
        self._running: dict[int, Iterator[Any]] = {}

    @property
    def is_idle(self) -> bool:
        return not self._running

    def submit(self, request: Request) -> int:
        self._check_thread()
        text = prompt_text(request)
        if "refuse" in text:
            raise UserError("the prompt does not fit: make it shorter")
        for segment in segments_of(request):
            if isinstance(segment, Image):
                open(segment.source, "rb").close()  # there as long as the request is asked
        self.is_wrecked |= "wreck" in text
        self.requests.append(request)
        number = next(self._numbers)
        self._running[number] = self._answer(request, text)
        return number

    def cancel(self, number: int) -> None:
        self._check_thread()
        self.cancelled.append(number)
        self._running.pop(number, None)

    def step(self) -> list[Event]:
        self._check_thread()
        self.steps += 1
        if self.is_wrecked:
            raise RuntimeError("planted")
        time.sleep(self.step_seconds)
        events = []
        for number, answer in list(self._running.items()):
            what = next(answer)
            events.append(Event(number, what))
            if isinstance(what, Finished):
                del self._running[number]
        return events

    def statistics(self) -> Statistics:
        self._check_thread()
        return Statistics(
            waiting=0,
            running=len(self._running),
            pages=len(self._running),
            max_pages=MAX_PAGES,
            known_pages=0,
            steps=self.steps,
            tokens_read=0,
            prompt_tokens=0,
            cached_tokens=3,
            begun_anew=0,
            drafted=0,
            accepted=0,
            expert_use={0: np.array([1, 3]), 2: np.array([2, 2])},
        )

    def _check_thread(self) -> None:
        self.thread = self.thread or threading.current_thread()
        assert self.thread is threading.current_thread(), "one thread owns an engine"

    def _answer(self, request: Request, text: str) -> Iterator[Any]:
        count = 0
        for what in self._whats(request, text):
            if "crash" in text and count:
                raise RuntimeError("planted")
            if "fail" in text and count == 2:
                yield Finished("failed", Usage(len(text), 0, count), "planted", is_refused="too much" in text)
                return
            if count >= request.config.max_new_tokens:
                yield Finished("length", Usage(len(text), 0, count))
                return
            if isinstance(what, str) and any(mark in what for mark in request.stop):
                break
            count += 1
            yield what
        yield Finished("stop", Usage(len(text), 1, count))

    def _whats(self, request: Request, text: str) -> Iterator[Any]:
        sound = Sound(np.sin(np.arange(800, dtype=np.float32) / 5), 8000)
        if request.begin == "audio":
            yield sound
        elif request.begin != "text":
            yield self._drawing(request)
        elif isinstance(request.constraint, Choices):
            yield request.constraint.texts[0]
        elif isinstance(request.constraint, JsonSchema):
            yield '{"digit": 7}'
        elif "flood" in text:
            yield from itertools.repeat("x" * 65536)
        elif "count" in text:
            yield from (f"{i} " for i in itertools.count())
        else:
            yield from ("you", " said:", *(f" {word}" for word in text.split()))
            if request.canvas is not None and "draw" in text:
                yield self._drawing(request)
            if request.speaks and "speak" in text:
                yield sound

    def _drawing(self, request: Request) -> np.ndarray:
        size, rng = request.canvas.resolution, np.random.default_rng(request.seed)
        return rng.integers(0, 256, (request.canvas.num_frames, size.height, size.width, 3), np.uint8)
