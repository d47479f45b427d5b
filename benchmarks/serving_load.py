"""Loads a server with many clients and holds every whole answer against what one client alone was told.

    python benchmarks/serving_load.py runs/pydoc/model --clients 64 --minutes 5

Starts tools/serve.py on the folder (what follows `--` goes to it), asks each question alone, greedily, then with many
clients at once for some minutes: some of them go away in the midst of an answer. Prints errors, answers that are not
those of one client alone, time to the first token and between tokens, memory of the server and pages in use by the
minute. Then the same questions twice more: as places become free (continuous batching), and in groups of which each
waits for its last answer (static batching). Clients and server share the machine. Status 1 if anything went wrong.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np

ROOT = Path(__file__).parents[1]
LENGTHS = (8, 16, 32, 64, 128)  # words at most
PREFACE = "The following sections of the reference say what each statement does, which names it binds and when. " * 3
GIVES_UP = 0.1  # share of requests whose client goes away
START_SECONDS = 120.0
SAMPLE_SECONDS = 5.0
ROUNDS = 3


class Question(NamedTuple):
    prompt: str
    max_tokens: int


@dataclass
class Told:
    """What one request was told, and when."""

    text: str = ""
    times: list[float] = field(default_factory=list)  # of each piece, from the request on
    error: str = ""
    tokens: int = 0


def questions(count: int) -> list[Question]:
    """Beginnings of the standard library's documentation; every second one behind the same preface."""
    from pydoc_data.topics import topics

    rng, found = random.Random(0), []
    for i, name in enumerate(sorted(topics)[:count]):
        text = topics[name][: rng.randrange(20, 300)]
        found.append(Question(PREFACE + text if i % 2 else text, LENGTHS[i % len(LENGTHS)]))
    return found


async def ask(client: httpx.AsyncClient, model: str, question: Question, stop_after: int = 0) -> Told:
    """Greedy and streamed. stop_after: pieces after which the client goes away; 0: it stays."""
    body = {
        "model": model,
        "prompt": question.prompt,
        "max_tokens": question.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    told, begun, is_whole = Told(), time.perf_counter(), False
    try:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                told.error = f"{answer.status_code}: {(await answer.aread())[:200]!r}"
                return told
            async for line in answer.aiter_lines():
                if not line:
                    continue
                if line == "data: [DONE]":
                    is_whole = True
                    break
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    told.error = chunk["error"]["message"]
                    return told
                if chunk["usage"]:
                    told.tokens = chunk["usage"]["completion_tokens"]
                for choice in chunk["choices"]:
                    told.text += choice["text"]
                    told.times += [time.perf_counter() - begun] if choice["text"] else []
                if stop_after and len(told.times) >= stop_after:
                    return told
    except httpx.HTTPError as error:
        told.error = f"{type(error).__name__}: {error}"
    if not is_whole and not told.error:
        told.error = "the stream broke off"
    return told


class Watch:
    """Memory of the server and pages in use, by time."""

    def __init__(self, client: httpx.AsyncClient, process: int):
        self._client, self._process = client, process
        self.samples: list[tuple[float, float, float]] = []  # seconds, MiB, pages

    async def sample(self, begun: float) -> None:
        status = Path(f"/proc/{self._process}/status").read_text()
        rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024
        self.samples.append((time.perf_counter() - begun, rss, (await metrics(self._client))["ernie5_engine_pages"]))

    async def run(self) -> None:
        begun = time.perf_counter()
        while True:
            await self.sample(begun)
            await asyncio.sleep(SAMPLE_SECONDS)


async def metrics(client: httpx.AsyncClient) -> dict[str, float]:
    lines = (await client.get("/metrics")).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


@asynccontextmanager
async def server(folder: Path, clients: int, options: Sequence[str]) -> AsyncIterator[tuple[httpx.AsyncClient, int]]:
    """A server on the folder until the end of the block; a client of it and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    limits = ["--max-running", str(clients), "--max-waiting", str(clients)]
    command = [sys.executable, str(ROOT / "tools" / "serve.py"), str(folder), "--port", str(port), *limits, *options]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        pool = httpx.Limits(max_connections=4 * clients, max_keepalive_connections=4 * clients)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=600, limits=pool) as client:
            end = time.monotonic() + START_SECONDS
            while True:
                try:
                    await client.get("/ready")
                    break
                except httpx.TransportError:
                    if process.poll() is not None or time.monotonic() > end:
                        raise SystemExit("the server does not start") from None
                    await asyncio.sleep(0.2)
            yield client, process.pid
    finally:
        process.terminate()
        process.wait(60)


async def load(
    client: httpx.AsyncClient, model: str, asked: Sequence[Question], clients: int, seconds: float
) -> list[tuple[int, Told, bool]]:
    """(number of the question, what was told, whether the client stayed) of all requests of so many seconds."""
    end, done = time.monotonic() + seconds, []

    async def one(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < end:
            i = rng.randrange(len(asked))
            stop_after = rng.randrange(1, 6) if rng.random() < GIVES_UP else 0
            done.append((i, await ask(client, model, asked[i], stop_after), not stop_after))

    await asyncio.gather(*(one(number) for number in range(clients)))
    return done


async def batched(
    client: httpx.AsyncClient, model: str, asked: Sequence[Question], clients: int, is_static: bool
) -> tuple[float, list[Told]]:
    """(seconds, what was told) of all questions, each once."""
    begun = time.perf_counter()
    if is_static:
        told = []
        for first in range(0, len(asked), clients):
            told += await asyncio.gather(*(ask(client, model, one) for one in asked[first : first + clients]))
    else:
        places = asyncio.Semaphore(clients)

        async def placed(question: Question) -> Told:
            async with places:
                return await ask(client, model, question)

        told = await asyncio.gather(*(placed(question) for question in asked))
    return time.perf_counter() - begun, told


def percentiles(values: Sequence[float]) -> str:
    if not values:
        return "none"
    p50, p99 = np.percentile(values, [50, 99]) * 1000
    return f"{p50:.1f} ms, {p99:.1f} ms"


def gaps(told: Told) -> list[float]:
    return np.diff(told.times).tolist()


async def measure(args: argparse.Namespace) -> int:
    asked = questions(args.questions)
    async with server(args.model, args.clients, args.options) as (client, process):
        (card,) = (await client.get("/v1/models")).json()["data"]
        model = card["id"]
        begun = time.perf_counter()
        alone = [await ask(client, model, question) for question in asked]
        report("one client alone", f"{sum(told.tokens for told in alone) / (time.perf_counter() - begun):.0f} tokens/s")
        report("- time to the first token (p50, p99)", percentiles([told.times[0] for told in alone if told.times]))
        watch = Watch(client, process)
        watching, begun = asyncio.ensure_future(watch.run()), time.perf_counter()
        done = await load(client, model, asked, args.clients, 60 * args.minutes)
        seconds = time.perf_counter() - begun
        watching.cancel()
        errors = Counter(told.error for _, told, _ in done if told.error)
        whole = [(i, told) for i, told, stayed in done if stayed and not told.error]
        other = sum(told.text != alone[i].text for i, told in whole)
        report(f"{args.clients} clients for {seconds / 60:.1f} minutes", f"{len(done)} requests")
        report("- tokens a second, of whole answers", f"{sum(told.tokens for _, told in whole) / seconds:.0f}")
        report("- errors", f"{sum(errors.values())} {dict(errors) or ''}".strip())
        report("- clients that went away", f"{sum(not stayed for _, _, stayed in done)}")
        report("- answers other than alone", f"{other} of {len(whole)}")
        report("- time to the first token (p50, p99)", percentiles([told.times[0] for _, told in whole if told.times]))
        report("- time between tokens (p50, p99)", percentiles([gap for _, told in whole for gap in gaps(told)]))
        await asyncio.sleep(1)
        await watch.sample(time.perf_counter() - seconds)
        told_metrics = await metrics(client)
        shown = watch.samples[:: max(1, len(watch.samples) // 8)] + watch.samples[-1:]
        report("- memory of the server (s: MiB)", ", ".join(f"{at:.0f}: {rss:.0f}" for at, rss, _ in shown))
        report("- pages in use (s: pages)", ", ".join(f"{at:.0f}: {pages:.0f}" for at, _, pages in shown))
        cached, prompt = (told_metrics[f"ernie5_engine_{name}_tokens"] for name in ("cached", "prompt"))
        report("- tokens of prompts taken over from earlier requests", f"{cached / prompt:.0%}")
        many = asked * max(1, round(4 * args.clients / len(asked)))
        random.Random(1).shuffle(many)
        failed, rounds = 0, {"continuous": [], "static": []}
        for _ in range(ROUNDS):  # in turns, so that what else the machine does meets both
            for name, found in rounds.items():
                seconds, told = await batched(client, model, many, args.clients, name == "static")
                failed += sum(bool(one.error) for one in told)
                found.append((seconds, sum(one.tokens for one in told) / seconds, told))
        for name, found in rounds.items():
            seconds, rate, told = sorted(found, key=lambda one: one[0])[len(found) // 2]
            firsts = percentiles([one.times[0] for one in told if one.times])
            spread = f"{min(one[0] for one in found):.1f} to {max(one[0] for one in found):.1f} s"
            value = f"{seconds:.1f} s ({spread}), {rate:.0f} tokens/s, first token {firsts}"
            report(f"{name} batching, {len(many)} requests, median of {ROUNDS}", value)
    pages_left = watch.samples[-1][2]
    report("pages in use at the end", f"{pages_left:.0f}")
    return int(bool(errors or failed or pages_left or other > args.may_differ * len(whole)))


def report(what: str, value: str) -> None:
    print(f"| {what} | {value} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--questions", type=int, default=40, help="different ones")
    parser.add_argument("--may-differ", type=float, default=0.02, metavar="SHARE",
                        help="answers that may differ from those alone: products of other sizes round otherwise, and "
                        "near ties fall the other way (default %(default)s)")  # fmt: skip
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = parser.parse_args(sys.argv[1:cut])
    args.options = sys.argv[cut + 1 :]
    sys.exit(asyncio.run(measure(args)))


if __name__ == "__main__":
    main()
