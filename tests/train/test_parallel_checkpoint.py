"""Whichever process is killed while several save, a checkpoint that opens is whole, and none is lost."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ernie5.train.checkpoint import CheckpointStore
from tests.train import parallel_checkpoint as program

pytestmark = pytest.mark.multiproc

NEW = {"retain"}  # points behind which the second checkpoint stands
BY_FIRST = ("state", "manifest", "first rename", "retain")
KILLED = [(1, "send"), (1, "half a file"), (0, "half a file"), (1, "tell"), *((0, point) for point in BY_FIRST)]


def start(folder: Path, count: int, point: str, process: int = 0, second: int = 2) -> subprocess.CompletedProcess:
    command = [sys.executable, program.__file__, str(count), str(folder), point, str(process), str(second)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def assert_opens(folder: Path, step: int) -> None:
    store = CheckpointStore(folder / "checkpoints")
    found = store.open("auto")
    assert found.step == found.state["step"] == step
    for name, shape in (("rows", [8, 4]), ("columns", [4, 8]), ("same", [5])):
        np.testing.assert_array_equal(found.model_tensors()[name], program.whole(step, shape), err_msg=name)
    assert all(path.name.startswith("step_") for path in store.root.iterdir())


@pytest.mark.parametrize(("process", "point"), KILLED)
def test_a_kill_leaves_only_whole_checkpoints(process, point, tmp_path):
    result = start(tmp_path, 2, point, process)
    if process == 0:
        assert result.returncode == -signal.SIGKILL
    else:
        assert result.returncode == 1 and f"process {process} " in result.stderr and "SIGKILL" in result.stderr
    assert_opens(tmp_path, 2 if point in NEW else 1)


def test_a_kill_between_the_renames_of_a_replacement_loses_nothing(tmp_path):
    assert start(tmp_path, 2, "second rename", 0, second=1).returncode == -signal.SIGKILL
    assert [path.name[:5] for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith("step")] == []
    assert_opens(tmp_path, 1)


def test_other_numbers_of_processes_go_on_together_after_a_kill(tmp_path):
    """All of them remove what is left, and each takes its pieces."""
    assert start(tmp_path, 2, "manifest").returncode == -signal.SIGKILL
    left = [path for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".tmp")]
    assert len(left) == 1
    for i in range(200):
        (left[0] / f"more-{i}").write_bytes(b"")
    result = start(tmp_path, 4, "resume")
    assert result.returncode == 0, result.stderr
    said = [json.loads((tmp_path / f"resumed_{rank}.json").read_text()) for rank in range(4)]
    assert [step for step, _ in said] == [1] * 4
    for name, axis, shape in (("rows", 0, [8, 4]), ("columns", 1, [4, 8])):
        pieces = [np.array(own[name], np.float32) for _, own in said]
        np.testing.assert_array_equal(np.concatenate(pieces, axis), program.whole(1, shape))
    assert_opens(tmp_path, 1)


def test_what_one_process_finds_damaged_all_refuse(tmp_path):
    assert start(tmp_path, 2, "retain").returncode == -signal.SIGKILL
    damaged = next((tmp_path / "checkpoints" / "step_00000002").glob("model-00002-*"))
    data = damaged.read_bytes()
    damaged.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    result = start(tmp_path, 2, "resume")
    assert result.returncode == 0, result.stderr
    said = [json.loads((tmp_path / f"resumed_{rank}.json").read_text()) for rank in range(2)]
    assert [step for step, _ in said] == [1, 1]
