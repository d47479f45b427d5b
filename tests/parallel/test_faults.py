"""A process that dies ends the run within a minute, and is named."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ernie5.train.checkpoint import CheckpointStore
from tests.parallel import fault_run
from tests.parallel.test_processes import assert_none_left
from tests.runs import ROOT, SHORT, TINY, losses, overrides, records

pytestmark = pytest.mark.multiproc

OPTIONS = ("stages.0.batch_tokens=320", "train.eval_steps=0", "train.sample_steps=0", "train.save_steps=4")


def start(run_dir: Path, fault: str, *arguments: str, processes: int = 2, **environment: str) -> subprocess.Popen:
    """A run of which a process fails as `fault` says; see fault_run.py."""
    options = overrides([*SHORT, *OPTIONS, f"train.output_dir={run_dir}"])
    command = [sys.executable, fault_run.__file__, "-c", str(TINY), *options, f"--nproc_per_node={processes}"]
    return subprocess.Popen(
        [*command, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"FAULT": fault} | environment,
    )


def fault_lines(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("fault:")]


ENDS = {
    "1:5:kill": "process 1 was killed by SIGKILL (its log {log} is empty)",
    "1:5:raise": "process 1 ended with exit status 1 (its log {log} ends with 'RuntimeError: a part of it broke')",
    "1:5:exit": "process 1 ended with exit status 3 (its log {log} is empty)",
}


@pytest.mark.parametrize("fault", ENDS)
def test_one_that_dies_stops_all_with_its_name_and_its_last_word(tmp_path, fault):
    process = start(tmp_path, fault, processes=3 if "kill" in fault else 2)
    _, errors = process.communicate(timeout=120)
    assert time.time() - (tmp_path / "metrics.jsonl").stat().st_mtime < 60
    assert process.returncode == 1
    said = ENDS[fault].format(log=tmp_path / "log" / "ernie5_rank_1.log")
    assert fault_lines(errors) == [f"fault: {said}: go on with --resume auto"]
    assert "Traceback" not in errors
    assert losses(tmp_path)[-1][0] == 4
    assert_none_left(tmp_path)


def test_when_the_first_dies_no_other_stays(tmp_path):
    process = start(tmp_path, "0:5:kill")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL and "Traceback" not in errors
    assert_none_left(tmp_path, seconds=10)


def test_one_that_waits_where_nothing_wakes_it_ends_with_the_one_that_died(tmp_path):
    """As a process that waits in NCCL does."""
    program = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from ernie5.errors import exit_cleanly
from ernie5.parallel import processes
processes.PATIENCE = 1.0
def main():
    with processes.other_processes(2, Path(sys.argv[2])):
        if os.environ["PADDLE_TRAINER_ID"] == "1":
            os._exit(4)
        time.sleep(1000)
exit_cleanly(main)
"""
    command = [sys.executable, "-c", program, str(ROOT), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    said = f"process 1 ended with exit status 4 (its log {tmp_path / 'ernie5_rank_1.log'} is empty)"
    assert (result.returncode, result.stderr) == (1, f"\nfault: {said}: go on with --resume auto\n")


def test_an_error_in_the_data_saves_what_was_trained_whoever_has_it(tmp_path):
    options = overrides(["parallel.sharding=2", "train.async_save=true"])
    process = start(tmp_path, "0:6:data", *options)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and "error: a planted line is bad" in errors
    last = losses(tmp_path)[-1][0]
    assert last > 4 and CheckpointStore(tmp_path / "checkpoints").open("auto").step == last


NAN_LAYOUTS = {  # processes, `parallel:`, and where the NaN is
    "data": (2, [], 1),
    "stages of sharded optimizers": (4, ["pipeline=2", "sharding=2"], 3),
    "tensor and data": (4, ["tensor=2"], 2),
    "experts": (2, ["expert=2"], 1),
}


@pytest.mark.parametrize(
    "layout", ["data", *(pytest.param(name, marks=pytest.mark.slow) for name in NAN_LAYOUTS if name != "data")]
)
def test_a_gradient_that_is_not_finite_is_named_with_its_process(tmp_path, layout):
    processes, degrees, rank = NAN_LAYOUTS[layout]
    options = overrides(
        ["train.async_save=true", "stages.0.batch_tokens=256", *(f"parallel.{degree}" for degree in degrees)]
    )
    process = start(tmp_path, f"{rank}:10:nan", *options, processes=processes)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in errors
    (line,) = fault_lines(errors)
    last = losses(tmp_path)[-1][0]
    assert f"{fault_run.PLANTED} is not finite (made by process {rank}); the weights before this step are saved" in line
    assert f"step {last}: the loss is" in line and " is nan" not in line
    assert CheckpointStore(tmp_path / "checkpoints").open("auto").step == last > 0


def test_one_that_is_slow_is_named_in_the_events(tmp_path):
    process = start(tmp_path, "1:0:slow")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    (event,) = [record for record in records(tmp_path, "event") if "slow" in record["text"]]
    assert event["step"] == 10 and event["text"].startswith("process 1 is slow")
    assert "step 10: process 1 is slow" in errors
