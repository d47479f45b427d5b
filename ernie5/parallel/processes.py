"""Starts the other processes of a run on this machine, as Paddle's launcher does, with one terminal; watches them.

`python -m paddle.distributed.launch` works as well, and is what clusters take; here the first process is the one that
the user has started, so that its progress bar and its exit status are his.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ernie5.errors import Fault, UserError
from ernie5.parallel.supervisor import REMEDY, end_with_parent, report, status_text

OPTION = "--nproc_per_node"
LOG_NAME = "ernie5_rank_{}.log"
PATIENCE = (
    30.0  # seconds that the others have to end by themselves, and that the first has to notice that one has ended
)
JOIN_SECONDS = "120"  # that Paddle's store waits for a process, when all have met already; no thread of ours runs then
STARTED = "ERNIE5_STARTED"  # set in processes started here
LOST_ANOTHER = 75  # exit status of one that ended because another had ended: it is not to blame


class PeerLost(Fault):
    """Another process of the run does not answer."""


@dataclass(frozen=True)
class _Other:
    rank: int
    process: subprocess.Popen
    log: Path
    log_start: int  # what earlier processes wrote into the log ends here

    def end(self) -> str:
        """How it ended, and what it said last."""
        said = self.log.read_bytes()[self.log_start :].decode(errors="replace").strip().splitlines()
        last = f"ends with {said[-1].strip()!r}" if said else "is empty"
        return f"process {self.rank} {status_text(self.process.returncode)} (its log {self.log} {last})"


_others: list[_Other] = []  # which this process has started
_ended: list[_Other] = []  # those of them that have ended, in that order
_noticed = threading.Event()  # this process knows that one has ended, or is at its own end


@contextmanager
def other_processes(count: int, log_dir: Path) -> Iterator[None]:
    """`count` - 1 more processes of this very command, while the block runs; this one becomes the first of `count`.

    What the others print goes to files of `log_dir`. They end with the block, at once if it fails, and with this
    process, however it ends. In one of the others this does nothing. UserError if a launcher has started this process.
    """
    if STARTED in os.environ:
        with _told_by_status():
            yield
        return
    if count == 1:
        yield
        return
    if "PADDLE_TRAINERS_NUM" in os.environ:
        raise UserError(f"{OPTION}: this process was started by a launcher already: give the number there")
    endpoints = [f"127.0.0.1:{port}" for port in _free_ports(count)]
    log_dir.mkdir(parents=True, exist_ok=True)
    try:
        for rank in range(1, count):
            _others.append(_start(rank, _environment(endpoints, rank), log_dir / LOG_NAME.format(rank)))
            threading.Thread(target=_watch, args=(_others[-1],), daemon=True).start()
        os.environ.update(_environment(endpoints, 0))
        yield
        for other in _others:
            with suppress(subprocess.TimeoutExpired):
                other.process.wait(PATIENCE)
    finally:
        _noticed.set()
        for other in _others:
            other.process.kill()
            other.process.wait()
        for known in (_others, _ended):
            known.clear()


def why_one_ended(patience: float = 0.0) -> str:
    """Which process started here ended first by its own fault, how, and its last word; "" if none within `patience`."""
    deadline = time.monotonic() + patience
    while True:
        guilty = [other for other in _ended if other.process.returncode != LOST_ANOTHER]
        if guilty:
            _noticed.set()
            return min(guilty, key=lambda other: other.process.returncode == 0).end()
        if not _others or time.monotonic() > deadline:
            return ""
        time.sleep(0.05)


def peer_lost(cause: str) -> PeerLost:
    """What to raise where another process does not answer; `cause` is told where nobody here knows better."""
    why = why_one_ended(patience=5.0) or f"another process of this run does not answer ({cause}): look at its log"
    return PeerLost(f"{why}{REMEDY}")


@contextmanager
def _told_by_status() -> Iterator[None]:
    try:
        yield
    except PeerLost as error:
        sys.stderr.write(f"fault: {error}\n")
        sys.exit(LOST_ANOTHER)


def _watch(other: _Other) -> None:
    """A thread: ends this process if another has failed and this one does not come to notice it.

    It may be waiting where nothing wakes it: in NCCL, or in Paddle's store. The newest checkpoint stands.
    """
    status = other.process.wait()
    _ended.append(other)
    if status != 0 and not _noticed.wait(PATIENCE):
        why = why_one_ended() or other.end()
        report(why)
        sys.stderr.write(f"\nfault: {why}{REMEDY}\n")
        sys.stderr.flush()
        os._exit(1)


def _start(rank: int, environment: dict[str, str], log: Path) -> _Other:
    """This command once more. A session of its own: Ctrl-C is for the first process, which tells the others."""
    with open(log, "ab") as output:
        start = output.tell()
        process = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env=os.environ | environment | {STARTED: "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=end_with_parent(),
        )
    return _Other(rank, process, log, start)


def _environment(endpoints: list[str], rank: int) -> dict[str, str]:
    """What Paddle reads to find the others, and, of its own messages, errors alone."""
    return {
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_TRAINERS_NUM": str(len(endpoints)),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
        "PADDLE_MASTER": endpoints[0],
        "PADDLE_DISTRI_BACKEND": "gloo",
        "FLAGS_stop_check_timeout": os.environ.get("FLAGS_stop_check_timeout", JOIN_SECONDS),
        "GLOG_minloglevel": os.environ.get("GLOG_minloglevel", "2"),
    }


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]
