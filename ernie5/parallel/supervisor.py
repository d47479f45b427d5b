"""Starts a job again when it has failed, from its newest checkpoint. Knows processes and folders, no Paddle.

The supervisor is the process that the user has started; the job is the same command as a child of it, with options
added: argparse takes the last of each. It stands for one machine: on several, what starts the job starts it again.
"""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from ernie5.errors import Fault

REMEDY = ": go on with --resume auto"  # of a user whom no supervisor helps
RESTART = "ERNIE5_RESTART"  # of a job that was started again: which restart it is, and why; for its metrics
_CAUSE = "ERNIE5_CAUSE"  # of a job: the descriptor to which it writes what it failed of
_LONGEST_PAUSE = 60  # seconds
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Done; what a user has to mend; stopped by Ctrl-C, and by a signal that came before anything could be saved.
_FINAL = (0, 2, 130, -signal.SIGINT, -signal.SIGTERM)

logger = logging.getLogger(__name__)
_descriptor: int | None = None


@contextmanager
def reporting() -> Iterator[None]:
    """Around a job: what it fails of is told to its supervisor, if there is one."""
    global _descriptor
    given = os.environ.pop(_CAUSE, "")  # popped: the descriptor is not that of processes which this one starts
    _descriptor = int(given) if given else None
    try:
        yield
    except Exception as error:
        report(str(error) if isinstance(error, Fault) else f"{type(error).__name__}: {error}")
        raise


def report(cause: str) -> None:
    """Tells the supervisor what this job fails of."""
    if _descriptor is not None:
        os.write(_descriptor, cause.removesuffix(REMEDY).encode(errors="replace")[:2048])


def supervise(
    run_dir: Path, processes: int, *, max_restarts: int, min_processes: int, fits: Callable[[int], bool]
) -> int:
    """Runs this command as a job until it has ended for good; its exit status. Fault after `max_restarts` restarts.

    It is not started again after the user's mistake or a signal to this process, which is handed on. After two
    failures in a row without a new checkpoint it goes on with fewer processes, at least `min_processes`, as `fits`.
    """
    job = _Job()
    at_start = before = _newest_checkpoint(run_dir)
    restart = failures = 0
    options: list[str] = []
    text = ""
    with job.taking_signals():
        while True:
            status, cause = job.run([*options, f"--nproc_per_node={processes}", "--max_restarts=0"], text)
            if status in _FINAL or job.stopped.is_set():
                return status if status >= 0 else 128 - status
            if restart == max_restarts:
                raise Fault(f"gave up after restart {restart} of {max_restarts}: {cause}")
            newest = _newest_checkpoint(run_dir)
            failures, before = (0 if newest != before else failures + 1), newest
            if failures == 2:
                failures = 0
                processes = next((n for n in range(processes - 1, min_processes - 1, -1) if fits(n)), processes)
            restart += 1
            # What was there before belongs to this run only if the user has said so.
            options = ["--resume=auto"] if newest != at_start else []
            where = f"{newest} on" if newest != at_start else "where this one started"
            text = f"restart {restart} of {max_restarts} with {processes} processes from {where}: {cause}"
            pause = min(2 ** (restart - 1), _LONGEST_PAUSE)
            if status < 0:
                sys.stderr.write("\n")  # what was killed has left its progress bar without an end
            logger.warning("%s (in %d s)", text, pause)
            if job.stopped.wait(pause):
                return 128 + job.signal


class _Job:
    """The child, and the signals that are handed on to it."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.signal = 0
        self._process: subprocess.Popen | None = None
        self._is_handed_on = False  # twice would mean: at once

    @contextmanager
    def taking_signals(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self._hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def run(self, options: list[str], restart: str) -> tuple[int, str]:
        """Starts the command with options added; how it ended, and the cause that it told, or else its status."""
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        with open(ours, "rb") as told:
            with open(theirs, "wb"):
                self._process = subprocess.Popen(
                    [sys.executable, *sys.orig_argv[1:], *options],
                    env=os.environ | {_CAUSE: str(theirs)} | ({RESTART: restart} if restart else {}),
                    pass_fds=(theirs,),
                    start_new_session=True,  # Ctrl-C comes once: from here
                    preexec_fn=end_with_parent(),
                )
            if self.stopped.is_set() and not self._is_handed_on:  # it came when there was nobody to hand it on to
                self._process.send_signal(self.signal)
            status = self._process.wait()
            cause = (told.read() or b"").decode(errors="replace")
        return status, cause or f"the first process {status_text(status)}"

    def _hand_on(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self.stopped.set()
        if self._process is not None and self._process.returncode is None:
            self._is_handed_on = True
            self._process.send_signal(number)


def _newest_checkpoint(run_dir: Path) -> str:
    """The name of the folder; "" if there is none. Checkpoints get their name when they are whole."""
    return max((path.name for path in (run_dir / "checkpoints").glob("step_*")), default="")


def status_text(status: int) -> str:
    """A status of `subprocess` in words."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def end_with_parent() -> partial:
    """For `preexec_fn` of subprocess: the kernel kills the new process when this one ends, even by SIGKILL."""
    return partial(_end_with, os.getpid(), ctypes.CDLL(None))


def _end_with(parent: int, libc: ctypes.CDLL) -> None:
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended in between
        os._exit(1)
