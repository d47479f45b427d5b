"""A checkpoint that several processes write is that of one; a half one never gets its name."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import paddle
import pytest

from ernie5.parallel.data_parallel import ALONE
from ernie5.train import saving
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


def test_where_another_is_gone_while_it_writes_the_first_saves_alone(tmp_path):
    result = save(tmp_path, 2, "whole", "alone")
    assert result.returncode == 1 and "process 1 was killed" in result.stderr
    assert_whole(tmp_path, 2)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"step_00000001", "step_00000002"}


def test_a_process_holds_a_file_beyond_its_tensors_and_in_the_background_its_share(tmp_path):
    result = save(tmp_path, 2, "cut", "memory")
    assert result.returncode == 0, result.stderr
    share, slack = program.NUM_BIG * program.BIG_BYTES / 2, 2**19
    assert program.BIG_SHARD_BYTES + 2 * slack < share / 2
    for rank in range(2):
        at_once, in_background = json.loads((tmp_path / f"peaks_{rank}.json").read_text())
        assert at_once < program.BIG_SHARD_BYTES + program.BIG_BYTES + slack
        assert in_background < share + program.BIG_BYTES + slack


class Slow:
    """Writes a file when it may."""

    def __init__(self, monkeypatch):
        self.may_go_on, self.written, write = threading.Event(), [], saving.write_file

        def slow(path, tensors):
            assert self.may_go_on.wait(60)
            self.written.append(path.name)
            return write(path, tensors)

        monkeypatch.setattr(saving, "write_file", slow)


@pytest.mark.parametrize("ends_at", [2, 3])
def test_what_is_being_written_is_finished_before_a_process_ends(ends_at, tmp_path, monkeypatch):
    """And is not written again, if nothing was trained since."""
    slow, store = Slow(monkeypatch), CheckpointStore(tmp_path, 2)
    saver, part = saving.Saver(store, ALONE, in_background=True), saving.Part({"a": paddle.ones([3])}, {})
    saver.save(2, part, part, state={}, config_text="")
    saver.poll()
    assert not store.newest_first()
    threading.Timer(0.2, slow.may_go_on.set).start()
    saver.save_alone(ends_at, part, part, state={}, config_text="")
    assert [path.name for path in store.newest_first()] == [f"step_{n:08d}" for n in sorted({2, ends_at}, reverse=True)]
    assert sorted(slow.written) == ["model.safetensors", "optimizer.safetensors"]
    assert CheckpointStore(tmp_path).open("auto").step == ends_at
