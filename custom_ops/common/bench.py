"""Timing of operators beside each other: one run of each job in turn, so that what slows the machine slows all of them.

A job is a function without arguments. Jobs of another library run in a live process of its own (`Peer`), as its threads
and memory must not disturb ours. Times are CPU seconds with one thread, wall seconds with more.
"""

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PEER_SERVER = Path(__file__).with_name("bench_peer.py")


class Peer:
    """The jobs of a script in another Python, which defines `jobs(case: dict, threads: int) -> dict[str, function]`."""

    def __init__(self, python: str, script: Path, case: Mapping[str, object], threads: int):
        self._process = subprocess.Popen(
            [python, str(PEER_SERVER), str(script), json.dumps(case), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.names: list[str] = json.loads(self._process.stdout.readline())

    def seconds(self, name: str) -> float:
        """One run of a job, timed by the peer itself."""
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def timer(threads: int) -> Callable[[], float]:
    return time.process_time if threads == 1 else time.perf_counter


def timed(job: Callable[[], object], threads: int) -> float:
    clock = timer(threads)
    begin = clock()
    job()
    return clock() - begin


def interleaved(
    jobs: Mapping[str, Callable[[], object]], peer: Peer | None, rounds: int, threads: int
) -> dict[str, list[float]]:
    """Seconds of every job and every round; one round more, which is not counted, warms up."""
    times: dict[str, list[float]] = {name: [] for name in (*jobs, *(peer.names if peer else []))}
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            seconds = timed(job, threads)
            if turn:
                times[name].append(seconds)
        for name in peer.names if peer else []:
            seconds = peer.seconds(name)
            if turn:
                times[name].append(seconds)
    return times


def table(times: Mapping[str, Sequence[float]], first: str, work: Mapping[str, float], unit: str) -> str:
    """Rows of Markdown: the median in ms, `work` units a second, and each job's time over that of `first`, by rounds.

    A ratio above 1 says how many times faster `first` is; 25th to 75th percentile in brackets.
    """
    lines = [f"| job | ms | {unit} | time over {first} (p25-p75) |", "|---|---:|---:|---:|"]
    for name, seconds in times.items():
        ratios = [one / other for one, other in zip(seconds, times[first], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        median = statistics.median(seconds)
        speed = f"{work[name] / median:.1f}" if name in work else ""
        lines.append(f"| {name} | {median * 1e3:.3f} | {speed} | {middle:.2f} ({low:.2f}-{high:.2f}) |")
    return "\n".join(lines)


def arguments(description: str) -> argparse.Namespace:
    """The options that every benchmark of an operator has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=15, help="default %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default %(default)s")
    parser.add_argument("--peer-python", default="", metavar="PATH", help="a Python with torch (default: no peer)")
    return parser.parse_args()


@dataclass
class Prepared:
    """One case of a benchmark: its name, and by kind what is run, both natively and by the definition, and its work."""

    title: str
    runs: dict[str, Callable[[], object]]
    work: dict[str, float]


def main(
    description: str | None,
    script: str,
    cases: Sequence[Mapping[str, object]],
    prepare: Callable[[Mapping[str, object]], Prepared],
    calls: int = 1,
    unit: str = "GB/s",
) -> None:
    """The program of `script`: a table for each kind of each case, beside the jobs of peer_torch.py in its folder.

    `calls` of a run in a row are one job, for what is too short to be timed alone.
    """
    options = arguments(description or "")
    from ernie5.ops import runtime

    runtime.start_paddle(options.threads)  # before anything imports Paddle
    from ernie5.config.schema import OpsConfig

    runtime.configure(OpsConfig())
    for case in cases:
        prepared = prepare(case)
        peer = None
        if options.peer_python:
            about = {**case, "calls": calls} if calls > 1 else case
            peer = Peer(options.peer_python, Path(script).with_name("peer_torch.py"), about, options.threads)
        times = interleaved(_both_ways(prepared.runs, calls), peer, options.rounds, options.threads)
        if peer:
            peer.close()
        repeated = f", {calls} calls" if calls > 1 else ""
        print(f"\n{prepared.title}, float32{repeated}, {options.threads} thread(s)\n")
        for kind in prepared.runs:
            chosen = {name: seconds for name, seconds in times.items() if _kind(name, prepared.runs) == kind}
            work = dict.fromkeys(chosen, calls * prepared.work[kind])
            print(table(chosen, f"native {kind}", work, unit), "\n")


def _both_ways(runs: Mapping[str, Callable[[], object]], calls: int) -> dict[str, Callable[[], None]]:
    from ernie5.ops import backend

    def job(mode: str, run: Callable[[], object]) -> None:
        with backend.using(mode):
            for _ in range(calls):
                run()

    return {
        f"{mode} {kind}": lambda mode=mode, run=run: job(mode, run)
        for kind, run in runs.items()
        for mode in ("native", "reference")
    }


def _kind(name: str, kinds: Mapping[str, object]) -> str:
    """The longest of the kinds that a job's name ends with."""
    return max((kind for kind in kinds if name.endswith(kind)), key=len, default="")
