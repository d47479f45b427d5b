"""Small whole runs, in this process or in one of their own, and what they wrote."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ernie5.config.load import load_config
from ernie5.inference.show import show
from ernie5.train.run import run

ROOT = Path(__file__).parents[1]
TINY = ROOT / "configs" / "run" / "tiny.yaml"
SHORT = ("data.validation_fraction=0.02",)  # one document, so that the last evaluation is short


def keep_gemm_kernels(patch: pytest.MonkeyPatch) -> None:
    """Programs that are started from now on take the matrix kernels which this process has.

    tools/train.py chooses for itself and for what it starts; these tests have not chosen, and MKL chooses once.
    """
    if "GenuineIntel" not in Path("/proc/cpuinfo").read_text():  # elsewhere `choose_gemm_kernels` would set it
        patch.setenv("MKL_DEBUG_CPU_TYPE", os.environ.get("MKL_DEBUG_CPU_TYPE", "0"))


def train(output_dir: Path, *overrides: str, resume: str = "") -> list[dict]:
    """Runs the tiny run file in this process; its metrics records."""
    config = load_config(TINY, [*SHORT, f"train.output_dir={output_dir}", *overrides])
    run(config, resume, show)
    return records(output_dir)


def start_tool(output_dir: Path, *arguments: str) -> subprocess.Popen:
    """tools/train.py on the tiny run file, in a process of its own."""
    options = overrides([*SHORT, f"train.output_dir={output_dir}"])
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "-c", str(TINY), *options, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def records(run_dir: Path, kind: str | None = None) -> list[dict]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [record for record in found if kind is None or record["kind"] == kind]


def losses(run_dir: Path) -> list[tuple]:
    """(step, loss, gradient norm) of every logged step, as written: equal means bit for bit."""
    return [(record["step"], record["loss"], record["grad_norm"]) for record in records(run_dir, "train")]


def overrides(values: Sequence[str]) -> list[str]:
    """["a=b"] -> ["-o", "a=b"]."""
    return [word for value in values for word in ("-o", value)]
