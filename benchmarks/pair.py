"""Compares served benchmarks (see protocol.py): a repetition of each in turn, ratios within each round.

    python benchmarks/pair.py --rounds 7 --cpu 1 ours="python benchmarks/train_step.py" theirs="..."

Two programs on a shared machine are fair to each other only if they meet the same neighbours, so each round runs each
program once and a ratio is taken between repetitions of one round. Times are CPU seconds of one thread, pinned to one
core: a neighbour's time slice is not counted. Prints one JSON line a program; ratios are against the first.
"""

import argparse
import json
import os
import statistics
import subprocess


class Program:
    """A served benchmark, running."""

    def __init__(self, name: str, command: str, cpu: str):
        self.name = name
        number = str(len(cpu.split(",")))
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), number)
        self.process = subprocess.Popen(
            f"exec taskset -c {cpu} {command} --serve",
            shell=True,
            env=os.environ | threads,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts = self._read()
        self.repetitions: list[dict] = []

    def repeat(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.repetitions.append(self._read())

    def stop(self) -> None:
        self.process.communicate("quit\n")

    def values(self, key: str) -> list[float]:
        return [repetition[key] for repetition in self.repetitions]

    def _read(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("{"):  # libraries may print lines of their own
                return json.loads(line)
        raise SystemExit(f"error: {self.name} ended with status {self.process.wait()}")


def quartiles(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"p25": round(low, 4), "median": round(median, 4), "p75": round(high, 4)}


def compare(program: Program, base: Program, key: str) -> dict:
    """What the measurement says of one program."""
    result = {"name": program.name, "facts": program.facts, key: quartiles(program.values(key))}
    result["best"] = round(min(program.values(key)), 4)
    if program is not base:
        pairs = zip(program.values(key), base.values(key), strict=True)
        result[f"ratio to {base.name}"] = quartiles([ours / theirs for ours, theirs in pairs])
    if "peak_rss_mib" in program.repetitions[-1]:
        result["peak_rss_mib"] = program.repetitions[-1]["peak_rss_mib"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="+", metavar="NAME=COMMAND", help="a program that understands --serve")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cpu", default="0", help="the cores of all programs, and so their threads")
    parser.add_argument("--key", default="cpu_s", choices=["cpu_s", "wall_s"], help="the time that is compared")
    args = parser.parse_args()
    programs = [Program(*program.split("=", 1), args.cpu) for program in args.programs]
    for _ in range(args.rounds):
        for program in programs:
            program.repeat()
    for program in programs:
        program.stop()
        print(json.dumps(compare(program, programs[0], args.key)), flush=True)


if __name__ == "__main__":
    main()
