"""Loops of generation, run by an engine as a request's would be."""

from collections.abc import Callable, Sequence
from typing import Any

from ernie5.inference.coders import SIGHT
from ernie5.inference.engine import Engine
from ernie5.inference.prompt import Prompt, encode_prompt
from ernie5.inference.request import Finished, Request
from ernie5.inference.task import Loop, Task
from ernie5.inference.write import Writer


def results(engine: Engine, requests: Sequence[Request], loop: Callable[[Task, Writer], Loop]) -> list[Any]:
    """What `loop` returns behind the prompt of each request, all together."""
    found: dict[int, Any] = {}
    for place, request in enumerate(requests):
        task = Task(engine.model, engine.tokenizer, engine.coders, request, engine.pool)
        prompt = Prompt(encode_prompt(engine.model, engine.tokenizer, request.prompt), engine.coders)
        engine.start(task, _begin(found, place, loop, task, prompt), len(prompt))
    for _, what in engine.run():
        assert not isinstance(what, Finished) or what.reason != "failed", what.message
    return [found[place] for place in range(len(requests))]


def _begin(found: dict, place: int, loop: Callable[[Task, Writer], Loop], task: Task, prompt: Prompt):
    def begin() -> Loop:
        writer = Writer(task, prompt)
        yield from writer.read_prompt()
        found[place] = yield from loop(task, writer)

    return begin


def engine_of(model, tokenizer, coders=SIGHT, **options) -> Engine:
    """For tests: a model in evaluation mode."""
    return Engine(model.eval(), tokenizer, coders, **options)
