"""The served benchmarks answer a line for a line, and the driver pairs them. No timing is asserted."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
TINY = ["--model", str(ROOT / "configs" / "model" / "tiny.yaml"), "--warmup", "1", "--no-keep-heap"]
PROGRAMS = {
    "train_step.py": [*TINY, "--batch", "2", "--seq", "8"],
    "decode.py": [*TINY, "--batch", "2", "--prompt", "4", "--new", "3", "--top-k", "1", "--layers", "2"],
}
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def run(program: str | Path, arguments: list[str], lines: str) -> list[dict]:
    """The JSON lines that a program prints for the lines on its input."""
    command = [sys.executable, str(BENCHMARKS / program), *arguments]
    result = subprocess.run(command, input=lines, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@cache
def served(program: str) -> list[dict]:
    return run(program, [*PROGRAMS[program], "--serve"], "go\ngo\nquit\ngo\n")


@pytest.mark.parametrize("program", PROGRAMS)
def test_served_program_answers_each_line_until_quit(program: str):
    ready, *answers = served(program)
    assert ready["ready"] is True and ready["model"] == "tiny"
    assert len(answers) == 2
    assert all(answer["wall_s"] > 0 and answer["cpu_s"] > 0 for answer in answers)


def test_training_steps_go_on_from_one_another():
    _, first, second = served("train_step.py")
    assert second["loss"] < first["loss"]


def test_decoding_gives_every_prompt_its_new_tokens():
    assert [answer["new_tokens"] for answer in served("decode.py")[1:]] == [6, 6]


def test_unserved_program_runs_the_repetitions_asked_for(tmp_path: Path):
    script = tmp_path / "counter.py"
    script.write_text(COUNTER.format(folder=str(BENCHMARKS)))
    _, *answers = run(script, ["--reps", "3", "--warmup", "2"], "")
    assert [answer["count"] for answer in answers] == [3, 4, 5]


COUNTER = """
import argparse, itertools, sys
sys.path.insert(0, {folder!r})
import protocol
parser = argparse.ArgumentParser()
protocol.add_options(parser)
count = itertools.count(1)
protocol.run(lambda: dict(count=next(count)), {{}}, parser.parse_args())
"""
SERVED = """
import sys
print("a library says hello")
print('{"ready": true, "name": "stub"}', flush=True)
for line, seconds in zip(sys.stdin, [%s]):
    if line == "quit\\n":
        break
    print('{"cpu_s": %%g, "wall_s": 9}' %% seconds, flush=True)
"""


def stub(path: Path, name: str, seconds: list[float]) -> str:
    """NAME=COMMAND of a program that says it took these CPU seconds."""
    script = path / f"{name}.py"
    script.write_text(SERVED % ", ".join(map(str, seconds)))
    return f"{name}={sys.executable} {script}"


def test_ratios_are_taken_within_each_round(tmp_path: Path):
    jobs = [stub(tmp_path, "base", [1, 10, 100, 0]), stub(tmp_path, "slow", [2, 20, 200, 0])]
    cpu = str(min(os.sched_getaffinity(0)))
    base, slow = run("pair.py", ["--rounds", "3", "--cpu", cpu, *jobs], "")
    assert base["cpu_s"]["median"] == 10 and "ratio to base" not in base
    assert slow["best"] == 2 and slow["facts"]["name"] == "stub"
    assert slow["ratio to base"] == {"p25": 2, "median": 2, "p75": 2}


def test_a_program_that_dies_is_named(tmp_path: Path):
    job = f"broken={sys.executable} -c 'raise SystemExit(3)'"
    command = [sys.executable, str(BENCHMARKS / "pair.py"), "--cpu", str(min(os.sched_getaffinity(0))), job]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode != 0 and "broken ended with status 3" in result.stderr
