"""A job that fails is started again: how often, from where, with how many processes; and when it is not."""

import logging
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ernie5.errors import Fault
from ernie5.parallel import supervisor
from ernie5.parallel.supervisor import status_text, supervise
from tests.parallel.test_faults import fault_lines, start
from tests.parallel.test_processes import assert_none_left
from tests.runs import ROOT, losses, overrides, records, start_tool
from tests.train.test_interruption import wait_for_step

# What a job does, by its number from 0: it ends with a status, is killed, or saves a checkpoint of a step before that.
JOB = """
import os, signal, sys
from pathlib import Path
from ernie5.errors import Fault
from ernie5.parallel.supervisor import RESTART, reporting
folder, plan = Path(sys.argv[1]), sys.argv[2].split(",")
log = folder / "jobs.txt"
number = len(log.read_text().splitlines()) if log.exists() else 0
with open(log, "a") as file:
    file.write(" ".join(sys.argv[3:]) + "|" + os.environ.get(RESTART, "") + "\\n")
saved, _, act = plan[min(number, len(plan) - 1)].rpartition("@")
if saved:
    (folder / "checkpoints" / f"step_{saved}").mkdir(parents=True)
if act == "fault":
    try:
        with reporting():
            raise Fault("process 1 was killed by SIGKILL")
    except Fault:
        sys.exit(1)
if act == "sleep":
    print("ready", flush=True)
    signal.pause()
os.kill(os.getpid(), signal.SIGKILL) if act == "kill" else os._exit(int(act))
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Runs a plan under the supervisor; what each job was given, and the restart that it was told."""

    def run(plan: str, processes: int = 1, least: int = 1, restarts: int = 3, fits=lambda count: True):
        monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", JOB, str(tmp_path), plan])
        monkeypatch.setattr(supervisor, "_LONGEST_PAUSE", 0)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        return supervise(tmp_path, processes, max_restarts=restarts, min_processes=least, fits=fits)

    run.started = lambda: [line.split("|") for line in (tmp_path / "jobs.txt").read_text().splitlines()]
    return run


@pytest.mark.parametrize("status", [0, 2, 130])
def test_an_end_that_no_restart_mends_is_final(jobs, status):
    assert jobs(str(status)) == status
    assert len(jobs.started()) == 1


def test_a_fault_and_a_kill_are_started_again_and_told(jobs, caplog):
    with caplog.at_level(logging.WARNING):
        assert jobs("fault,kill,0") == 0
    assert [restart for _, restart in jobs.started()] == [
        "",
        "restart 1 of 3 with 1 processes from where this one started: process 1 was killed by SIGKILL",
        "restart 2 of 3 with 1 processes from where this one started: the first process was killed by SIGKILL",
    ]
    assert [record.message.startswith(f"restart {i} of 3") for i, record in enumerate(caplog.records, 1)] == [True] * 2


def test_it_gives_up(jobs):
    with pytest.raises(Fault, match="^gave up after restart 3 of 3: process 1 was killed by SIGKILL$"):
        jobs("fault")
    assert len(jobs.started()) == 4


def test_it_goes_on_from_a_checkpoint_of_its_own_only(jobs, tmp_path):
    (tmp_path / "checkpoints" / "step_00000001").mkdir(parents=True)
    assert jobs("fault,00000002@fault,0") == 0
    assert ["--resume=auto" in given for given, _ in jobs.started()] == [False, False, True]
    assert "from step_00000002 on" in jobs.started()[2][1]


def test_after_two_failures_without_a_checkpoint_it_takes_the_next_number_of_processes_that_fits(jobs):
    with pytest.raises(Fault):
        jobs("00000001@fault,fault,fault,fault", 8, 3, 7, fits=lambda count: count % 2 == 0)
    counts = [given.split("--nproc_per_node=")[1][0] for given, _ in jobs.started()]
    assert counts == ["8", "8", "8", "6", "6", "4", "4", "4"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_handed_on_and_ends_it(tmp_path, number):
    program = (
        "import sys; from pathlib import Path; from ernie5.parallel.supervisor import supervise\n"
        "if '--max_restarts=0' in sys.argv:\n"
        "    sys.argv.insert(2, 'sleep'); exec(open(sys.argv[1] + '/job.py').read())\n"
        "sys.exit(supervise(Path(sys.argv[1]), 1, max_restarts=3, min_processes=1, fits=bool))"
    )
    (tmp_path / "job.py").write_text(JOB)
    command = [sys.executable, "-c", program, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert len((tmp_path / "jobs.txt").read_text().splitlines()) == 1
    assert_none_left(tmp_path)


def test_a_status_in_words():
    assert status_text(-9) == "was killed by SIGKILL" and status_text(3) == "ended with exit status 3"
    assert status_text(-250) == "was killed by signal 250"


@pytest.mark.multiproc
def test_a_run_of_which_a_process_is_killed_ends_with_the_losses_of_one_that_was_left_alone(tmp_path):
    whole = start(tmp_path / "whole", "")
    _, errors = whole.communicate(timeout=120)
    assert whole.returncode == 0, errors
    step = random.randrange(1, 16)
    process = start(tmp_path / "cut", f"1:{step}:kill", "--max_restarts", "2")
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors and len(fault_lines(errors)) == 1
    assert "restart 1 of 2 with 2 processes" in errors and "process 1 was killed by SIGKILL" in errors
    assert any(record["text"].startswith("restart 1 of 2") for record in records(tmp_path / "cut", "event"))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole"), f"killed in step {step}"
    assert_none_left(tmp_path)


@pytest.mark.multiproc
@pytest.mark.slow
def test_a_run_goes_on_with_fewer_processes(tmp_path):
    process = start(tmp_path, "1:1:exit:3", "--max_restarts=3", "--min_nproc=2", processes=3)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "restart 1 of 3 with 3 processes" in errors and "restart 2 of 3 with 2 processes" in errors
    assert losses(tmp_path)[-1][0] == 16


@pytest.mark.multiproc
def test_a_signal_to_the_supervisor_saves_the_run(tmp_path):
    options = overrides(["train.eval_steps=0", "train.sample_steps=0", "stages.0.num_tokens=1_000_000"])
    process = start_tool(tmp_path, *options, "--max_restarts", "2")
    wait_for_step(tmp_path, 3, process)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "restart" not in errors and list((tmp_path / "checkpoints").glob("step_*"))
    assert_none_left(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--max_restarts", "-1"), "--max_restarts is -1"),
        (("--nproc_per_node", "2", "--min_nproc", "3"), "--min_nproc is 3: give 1 to 2"),
        (("--max_restarts", "1", "-o", "train.log_steps=x"), "train.log_steps"),
    ],
)
def test_a_wrong_setting_is_told_and_nothing_started(tmp_path: Path, options, words):
    process = start_tool(tmp_path, *options)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2 and words in errors and len(errors.splitlines()) == 1
