"""How a benchmark is served: one repetition for each line on its standard input, so that a driver can take turns.

A served program prints `{"ready": true, ...}` once it is warm, then one JSON line for each line it reads, until `quit`
or the end of its input. `pair.py` drives several such programs and compares them.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

Record = dict[str, Any]


def add_options(parser: argparse.ArgumentParser, warmup: int = 2) -> None:
    """The options of every served program."""
    parser.add_argument("--serve", action="store_true", help="one repetition a line of standard input, for pair.py")
    parser.add_argument("--reps", type=int, default=5, help="repetitions when not served")
    parser.add_argument("--warmup", type=int, default=warmup, help="repetitions that are not reported")


def run(repetition: Callable[[], Record], facts: Record, args: argparse.Namespace) -> None:
    """Warms up, then reports each repetition on a line of its own: its times, and whatever it returns.

    facts: what the numbers are about (framework, shape ...), printed once.
    """
    for _ in range(args.warmup):
        repetition()
    _print({**facts, "threads": os.environ.get("OMP_NUM_THREADS"), "ready": True})
    lines = sys.stdin if args.serve else ["go"] * args.reps
    for line in lines:
        if line.strip() == "quit":
            return
        _print(timed(repetition))


def timed(repetition: Callable[[], Record]) -> Record:
    """Wall and CPU seconds of one repetition (CPU: of all threads of this process), with what it returns."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = repetition()
    times = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts KiB
    return {**times, **result, "peak_rss_mib": round(peak)}


def _print(record: Record) -> None:
    print(json.dumps(record), flush=True)
