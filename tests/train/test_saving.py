"""A checkpoint that several processes write is that of one; a half one never gets its name."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ernie5.train.checkpoint import CheckpointStore
from tests.train import saving as program

pytestmark = pytest.mark.multiproc


def save(folder: Path, count: int, layout: str, fault: str = "none") -> subprocess.CompletedProcess:
    command = [sys.executable, program.__file__, str(count), layout, str(folder), fault]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def assert_whole(folder: Path, step: int) -> None:
    checkpoint = CheckpointStore(folder / "checkpoints").open("auto")
    assert checkpoint.step == checkpoint.state["step"] == step
    tensors = checkpoint.model_tensors()
    assert tensors.keys() == program.TENSORS.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == program.whole(name).dtype, name
        np.testing.assert_array_equal(tensor, program.whole(name), err_msg=name)
    np.testing.assert_array_equal(checkpoint.optimizer_tensors()["state"], program.whole("everybody"))


@pytest.mark.parametrize(
    ("count", "layout"),
    [(1, "same"), (2, "cut"), (2, "same"), (4, "cut"), pytest.param(4, "replicas", marks=pytest.mark.slow)],
)
def test_it_has_the_whole_tensors_of_all(count, layout, tmp_path):
    result = save(tmp_path, count, layout)
    assert result.returncode == 0, result.stderr
    assert_whole(tmp_path, 2)


def test_every_process_writes_some_of_it(tmp_path):
    assert save(tmp_path, 4, "same").returncode == 0
    sizes = [file.stat().st_size for file in (tmp_path / "checkpoints" / "step_00000002").glob("model-*")]
    assert len(sizes) >= 4 and max(sizes) < sum(sizes) / 2


def test_in_the_background_it_has_the_values_of_its_step(tmp_path):
    result = save(tmp_path, 2, "cut", "later")
    assert result.returncode == 0, result.stderr
    assert_whole(tmp_path, 2)


def test_a_full_disk_is_named_with_its_process_and_the_checkpoint_before_stays(tmp_path):
    result = save(tmp_path, 2, "cut", "disk")
    assert result.returncode == 1
    assert "the checkpoint of step 2 could not be written (process 1: " in result.stderr
    assert "No space left on device" in result.stderr and "Traceback" not in result.stderr
    assert_whole(tmp_path, 1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_process_killed_while_it_writes_leaves_the_checkpoint_before(count, tmp_path):
    result = save(tmp_path, count, "cut", "killed")
    assert result.returncode == 1 and "process 1" in result.stderr
    assert_whole(tmp_path, 1)
