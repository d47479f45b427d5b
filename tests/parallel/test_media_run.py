"""Four modalities under each layout against one process: twenty steps, elastic draws and prediction block on."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.parallel.media_run import write_run
from tests.runs import ROOT, losses, overrides, records

pytestmark = pytest.mark.multiproc
LAYOUTS = {  # processes and settings
    "experts over two": (2, ["parallel.expert=2"]),
    "experts over four": (4, ["parallel.expert=4"]),
    "experts over two of four": (4, ["parallel.expert=2", "stages.0.micro_batch_rows=2"]),
    "data": (2, []),
    "experts over eight": (8, ["parallel.expert=8"]),
}


def train(run_file: Path, output_dir: Path, processes: int, settings: list[str], *arguments: str) -> Path:
    options = overrides([f"train.output_dir={output_dir}", *settings])
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "-c", str(run_file), *options, *arguments]
    done = subprocess.run(
        [*command, "--nproc_per_node", str(processes)], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return output_dir


@pytest.fixture(scope="module")
def run_file(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def one(run_file) -> Path:
    return train(run_file, run_file.parent / "one", 1, [])


def assert_same(a: Path, b: Path) -> None:
    assert len(losses(a)) == len(losses(b)) == 20
    np.testing.assert_allclose(losses(b), losses(a), rtol=1e-5)
    of_kinds = [[record["modalities"] for record in records(run, "train")] for run in (a, b)]
    for ours, theirs in zip(*of_kinds, strict=True):
        assert ours.keys() == theirs.keys()
        for name, values in ours.items():
            assert values["loss"] == pytest.approx(theirs[name]["loss"], rel=1e-5), name
    for part in ("model", "optimizer"):
        tensors = [load_file(run / "checkpoints" / "step_00000020" / f"{part}.safetensors") for run in (a, b)]
        assert tensors[0].keys() == tensors[1].keys()
        for name, tensor in tensors[0].items():
            np.testing.assert_allclose(tensors[1][name], tensor, rtol=1e-3, atol=1e-4, err_msg=name)


def test_the_run_has_all_modalities_and_draws(one):
    seen = {name for record in records(one, "train") for name in record["modalities"]}
    assert seen == {"text", "mtp", "vision", "audio"}
    assert len({tuple(record["subnet"].values()) for record in records(one, "train")}) > 3


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=pytest.mark.slow) if i else name for i, name in enumerate(LAYOUTS)]
)
def test_it_learns_what_one_process_learns(run_file, one, layout):
    processes, settings = LAYOUTS[layout]
    assert_same(one, train(run_file, run_file.parent / layout.replace(" ", "_"), processes, settings))


@pytest.mark.slow
def test_it_goes_on_in_another_layout(run_file, one):
    folder = run_file.parent / "changes"
    train(run_file, folder, 4, ["parallel.expert=4", "train.max_steps=10"])
    train(run_file, folder, 2, ["parallel.expert=2"], "--resume", "auto")
    assert_same(one, folder)
