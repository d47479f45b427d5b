"""Ids in, ids out: text without a tokenizer."""

from collections.abc import Iterator, Sequence

import numpy as np

from ernie5.config.schema import GenerationConfig
from ernie5.data.sequence import EncodedSample
from ernie5.inference.engine import Engine
from ernie5.inference.evaluating import evaluating
from ernie5.inference.prompt import Prompt
from ernie5.inference.request import Finished, Request
from ernie5.inference.task import Task
from ernie5.inference.write import write_ids
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet


def generate_ids(
    model: Ernie5ForCausalLM,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    eos_id: int | None,
    seed: int = 0,
    subnet: Subnet | None = None,
) -> Iterator[np.ndarray]:
    """Yields int64 [batch]: the next id of every prompt, until all have ended or max_new_tokens are out.

    Prompts (each at least one id, such as the start token) may differ in length. Behind its own end a sequence goes on
    yielding eos_id. The subnet is any member of the elastic family; the full model by default.
    """
    engine, rows = Engine(model, None, subnet=subnet), {}
    for place, ids in enumerate(prompts):
        request = Request(prompt=(), config=config, seed=seed + place)
        task = Task(model, None, engine.coders, request, engine.pool)
        prompt = Prompt(_text_sample(ids))
        number = engine.start(task, lambda task=task, prompt=prompt: write_ids(task, prompt, eos_id), len(ids))
        rows[number] = []
    ended: set[int] = set()
    for step in range(config.max_new_tokens):
        with evaluating(model):
            while any(len(row) <= step and number not in ended for number, row in rows.items()):
                for number, what in engine.step():
                    if isinstance(what, Finished):
                        ended.add(number)
                    else:
                        rows[number].append(what)
        if all(len(row) <= step for row in rows.values()):
            return
        yield np.array([row[step] if step < len(row) else eos_id for row in rows.values()], np.int64)


def _text_sample(ids: Sequence[int]) -> EncodedSample:
    return EncodedSample(ids=np.array(ids, np.int64), loss=np.zeros(len(ids), bool), num_bytes=0, origin="prompt")
