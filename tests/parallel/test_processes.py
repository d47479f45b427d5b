"""The processes of a run begin, stop and die together, and one of them talks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ernie5.errors import UserError
from ernie5.parallel.processes import other_processes
from ernie5.train.checkpoint import CheckpointStore
from tests.runs import ROOT, SHORT, TINY, losses, overrides, records, start_tool
from tests.train.test_interruption import wait_for_step

pytestmark = pytest.mark.multiproc

TWO = ("--nproc_per_node", "2")
LONG = overrides(["stages.0.num_tokens=1_000_000", "train.eval_steps=0", "train.sample_steps=0", "train.save_steps=3"])
FAILS_EARLY = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from ernie5.errors import exit_cleanly
from ernie5.parallel.processes import other_processes
from ernie5.parallel.roll_call import call_roll, read_seat
def main():
    with other_processes(3, Path(sys.argv[2])):
        if os.environ["PADDLE_TRAINER_ID"] == "2":
            sys.exit("rank 2 fails")
        call_roll(read_seat(os.environ))
exit_cleanly(main)
"""


def processes_of(run_dir: Path) -> dict[int, str]:
    """Those that run with this folder among their arguments, and the number that each has in the run."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except (OSError, ProcessLookupError):
            continue
        if str(run_dir).encode() in arguments:
            ranks = [value[18:] for value in environment.split(b"\0") if value.startswith(b"PADDLE_TRAINER_ID=")]
            found[int(folder.name)] = ranks[0].decode() if ranks else ""
    return found


def assert_none_left(run_dir: Path, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while left := processes_of(run_dir):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def other_pid(run_dir: Path) -> int:
    return next(pid for pid, rank in processes_of(run_dir).items() if rank == "1")


def test_a_signal_saves_and_ends_all(tmp_path):
    process = start_tool(tmp_path, *LONG, *TWO)
    wait_for_step(tmp_path, 3, process)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors and "--resume auto" in errors
    assert "FLAGS" not in errors and "tcp_" not in errors  # what Paddle says when processes join
    assert CheckpointStore(tmp_path / "checkpoints", 3).open("auto").step == losses(tmp_path)[-1][0]
    assert records(tmp_path, "event")[-1]["text"] == "stopped by SIGTERM"
    assert_none_left(tmp_path)


def test_when_another_process_is_killed_the_run_stops_with_one_line_and_what_was_trained_is_saved(tmp_path):
    process = start_tool(tmp_path, *LONG, *TWO)
    wait_for_step(tmp_path, 4, process)
    os.kill(other_pid(tmp_path), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    assert [line.partition(":")[0] for line in errors.splitlines() if "fault:" in line] == ["fault"]
    checkpoint = CheckpointStore(tmp_path / "checkpoints", 3).open("auto")
    assert checkpoint.step >= 3 and checkpoint.model_tensors()
    assert_none_left(tmp_path)


def test_when_the_first_process_is_killed_the_others_end(tmp_path):
    process = start_tool(tmp_path, *LONG, *TWO)
    while "1" not in processes_of(tmp_path).values():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    other = other_pid(tmp_path)
    os.kill(other, signal.SIGSTOP)  # it cannot end by itself, as one that waits in Paddle cannot
    process.kill()
    process.communicate()
    try:
        assert_none_left(tmp_path)
    finally:
        if other in processes_of(tmp_path):
            os.kill(other, signal.SIGKILL)


def test_a_process_that_fails_when_it_starts_is_not_waited_for(tmp_path):
    start = time.monotonic()
    command = [sys.executable, "-c", FAILS_EARLY, str(ROOT), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and time.monotonic() - start < 20
    log = tmp_path / "ernie5_rank_2.log"
    said = f"process 2 ended with exit status 1 (its log {log} ends with 'rank 2 fails')"
    assert result.stderr == f"fault: {said}: start again\n"
    assert_none_left(tmp_path)


@pytest.mark.parametrize(
    ("option", "word"),
    [("train.precision=bfloat16", "train.precision"), ("stages.0.batch_tokens=64", "stages.0.batch_tokens")],
)
def test_a_wrong_setting_is_told_once(tmp_path, option, word):
    process = start_tool(tmp_path, *overrides([option]), *TWO)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    (line,) = errors.splitlines()
    assert line.startswith("error: ") and word in line
    assert_none_left(tmp_path)


@pytest.mark.parametrize("count", ["0", "-1"])
def test_no_process_is_refused(tmp_path, count):
    process = start_tool(tmp_path, f"--nproc_per_node={count}")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and errors == f"error: --nproc_per_node is {count}: give 1 or more\n"


def test_a_launched_process_starts_no_others(monkeypatch, tmp_path):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    with pytest.raises(UserError, match="launcher"), other_processes(2, tmp_path):
        pass


@pytest.mark.slow
def test_paddles_launcher_starts_the_same_run(tmp_path):
    def finish(name: str, *launcher: str, end: tuple[str, ...] = ()) -> list[tuple]:
        options = overrides([*SHORT, f"train.output_dir={tmp_path / name}", "train.max_steps=6"])
        command = [sys.executable, *launcher, "tools/train.py", "-c", str(TINY), *options, *end]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
        assert result.returncode == 0, result.stderr
        return losses(tmp_path / name)

    launcher = ("-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo")
    launched = finish("launched", *launcher, "--log_dir", str(tmp_path / "log"))
    assert len(launched) == 6
    np.testing.assert_array_equal(launched, finish("own", end=TWO))
