"""What the generation engine gains: requests batched as they come, guesses of the prediction block, shared beginnings.

    python benchmarks/engine.py MODEL --requests 32 --rounds 5

Each way of working does the same requests in turn, a round after the other; ratios are between those of one round.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ernie5.config.schema import GenerationConfig, OpsConfig
from ernie5.ops import runtime

if TYPE_CHECKING:
    from ernie5.inference.engine import Engine
    from ernie5.inference.request import Event, Request

AT_ONCE = 8  # requests that are answered together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a model folder, trained; for guesses, with a prediction block")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most", type=int, default=96, help="words of the longest answer; the others are shorter")
    parser.add_argument("--prompts", type=Path, help="a text, whose lines are the prompts (default: <s> alone)")
    args = parser.parse_args()
    runtime.start_paddle()
    runtime.configure(OpsConfig())
    for name, ways in jobs(args).items():
        measured = [{way: timed(run) for way, run in ways.items()} for _ in range(args.rounds + 1)][1:]
        print(json.dumps({"job": name} | summary(measured)))


def timed(run: Callable[[], dict]) -> dict:
    start = time.perf_counter()
    return run() | {"seconds": time.perf_counter() - start}


def summary(rounds: Sequence[dict[str, dict]]) -> dict:
    """Medians of each way, and of its time over that of the first in the same round."""
    first = next(iter(rounds[0]))
    found = {}
    for way in rounds[0]:
        facts = {key: statistics.median(one[way][key] for one in rounds) for key in rounds[0][way]}
        ratios = [one[way]["seconds"] / one[first]["seconds"] for one in rounds]
        found[way] = {key: round(value, 4) for key, value in facts.items()} | {
            "time over the first": round(statistics.median(ratios), 3),
            "quartiles": [round(value, 3) for value in statistics.quantiles(ratios, n=4)[::2]],
        }
    return found


def jobs(args: argparse.Namespace) -> dict[str, dict[str, Callable[[], dict]]]:
    """By name, ways to do the same."""
    import numpy as np

    from ernie5.data.sample import Text
    from ernie5.inference.engine import Engine, EngineSettings
    from ernie5.inference.request import Request
    from ernie5.model.folder import from_pretrained
    from ernie5.tokenizers.text import TextTokenizer

    model, tokenizer = from_pretrained(args.model).eval(), TextTokenizer.from_pretrained(args.model)
    lines = args.prompts.read_text(encoding="utf-8").splitlines() if args.prompts else [""]
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.uniform(np.log(4), np.log(args.most), args.requests)).astype(int)
    config = GenerationConfig(temperature=0.8)
    requests = [
        Request(
            prompt=(Text(lines[i % len(lines)]),),
            config=dataclasses.replace(config, max_new_tokens=int(length)),
            seed=i,
        )
        for i, length in enumerate(lengths)
    ]
    long = "".join(str(number) + " " for number in range(300))
    alike = [dataclasses.replace(one, prompt=(Text(long), *one.prompt)) for one in requests]
    greedy = [
        dataclasses.replace(one, config=dataclasses.replace(config, max_new_tokens=args.most, temperature=0.0))
        for one in requests[:AT_ONCE]
    ]

    def engine(**settings) -> Engine:
        return Engine(model, tokenizer, settings=EngineSettings(max_running=AT_ONCE, **settings))

    found = {
        "mixed load": {
            "static batches": lambda: static(engine(), requests),
            "as they come": lambda: together(engine(), requests),
        },
        "equal beginnings": {
            "read each time": lambda: together(engine(share_prefixes=False), alike),
            "read once": lambda: together(engine(), alike),
        },
    }
    if model.mtp is not None:
        for name, some in (("one greedy answer", greedy[:1]), (f"{AT_ONCE} greedy answers", greedy)):
            found[name] = {
                "word by word": lambda some=some: together(engine(), some),
                "with guesses": lambda some=some: together(engine(speculate=True), some),
            }
    return found


def together(engine: "Engine", requests: Sequence["Request"]) -> dict:
    """All are asked at once; as many as fit are answered, and the next begins where one ends."""
    start = time.perf_counter()
    numbers = {engine.submit(request): start for request in requests}
    first = {}
    words = sum(_words(engine.run(), first))
    told = engine.statistics()
    waits = sorted(first[number] - begun for number, begun in numbers.items() if number in first)
    facts = {
        "words": words,
        "steps": told.steps,
        "first piece p50 s": waits[len(waits) // 2],
        "first piece p99 s": waits[-1],
    }
    if told.drafted:
        facts["guesses that were right"] = told.accepted / told.drafted
    return facts


def static(engine: "Engine", requests: Sequence["Request"]) -> dict:
    """As batches of old: the next ones wait until the longest answer of those before them has ended."""
    start, first, words = time.perf_counter(), {}, 0
    for place in range(0, len(requests), AT_ONCE):
        for request in requests[place : place + AT_ONCE]:
            engine.submit(request)
        words += sum(_words(engine.run(), first))
    waits = sorted(moment - start for moment in first.values())
    return {"words": words, "steps": engine.statistics().steps} | _first_pieces(waits)


def _first_pieces(waits: Sequence[float]) -> dict[str, float]:
    """Seconds until something of an answer is there; of so few requests, p99 is the longest."""
    return {"first piece p50 s": waits[len(waits) // 2], "first piece p99 s": waits[-1]}


def _words(events: Iterator["Event"], first: dict[int, float]) -> Iterator[int]:
    """Of each answer that ends; notes when each answer began."""
    from ernie5.inference.request import Finished

    for number, what in events:
        if isinstance(what, Finished):
            yield what.usage.completion_tokens
        else:
            first.setdefault(number, time.perf_counter())


if __name__ == "__main__":
    main()
