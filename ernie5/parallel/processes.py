"""Starts the other processes of a data-parallel run on this machine, as Paddle's launcher does, with one terminal.

`python -m paddle.distributed.launch` works as well, and is what clusters take; here the first process is the one that
the user has started, so that its progress bar and its exit status are his.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ernie5.errors import Fault, UserError

OPTION = "--nproc_per_node"
LOG_NAME = "ernie5_rank_{}.log"
PATIENCE = 30.0  # seconds that the others have to end by themselves
READY = "ERNIE5_READY"  # of a process started here: the descriptor at which it says that it is about to join
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class _Other(NamedTuple):
    process: subprocess.Popen
    ready: BinaryIO  # a byte when it is about to join, the end when it has ended
    log: Path


_others: list[_Other] = []  # which this process has started


@contextmanager
def other_processes(count: int, log_dir: Path) -> Iterator[None]:
    """`count` - 1 more processes of this very command, while the block runs; this one becomes the first of `count`.

    What the others print goes to files of `log_dir`. They end with the block, at once if it fails, and with this
    process, however it ends. In one of the others this does nothing. UserError if a launcher has started this process.
    """
    if count == 1 or READY in os.environ:
        yield
        return
    if "PADDLE_TRAINERS_NUM" in os.environ:
        raise UserError(f"{OPTION}: this process was started by a launcher already: give the number there")
    endpoints = [f"127.0.0.1:{port}" for port in _free_ports(count)]
    log_dir.mkdir(parents=True, exist_ok=True)
    try:
        for rank in range(1, count):
            _others.append(_start(_environment(endpoints, rank), log_dir / LOG_NAME.format(rank)))
        os.environ.update(_environment(endpoints, 0))
        yield
        for other in _others:
            with suppress(subprocess.TimeoutExpired):
                other.process.wait(PATIENCE)
    finally:
        for other in _others:
            other.process.kill()
            other.process.wait()
            other.ready.close()
        _others.clear()


def meet() -> None:
    """Returns when all processes started here are about to join. Fault if one has ended.

    Joining itself waits a quarter of an hour for a process that does not come, and cannot be interrupted.
    """
    if READY in os.environ:
        with open(int(os.environ[READY]), "wb") as ready:
            ready.write(b"1")
    for rank, other in enumerate(_others, 1):
        if not other.ready.read(1):
            raise Fault(f"process {rank} ended with status {other.process.wait()} when it started: see {other.log}")


def _start(environment: dict[str, str], log: Path) -> _Other:
    """This command once more. A session of its own: Ctrl-C is for the first process, which tells the others."""
    ours, theirs = os.pipe()
    with open(log, "wb") as output, open(theirs, "wb"):
        process = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env=os.environ | environment | {READY: str(theirs)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(theirs,),
            start_new_session=True,
            preexec_fn=partial(_end_with, os.getpid(), ctypes.CDLL(None)),
        )
    return _Other(process, open(ours, "rb"), log)


def _end_with(parent: int, libc: ctypes.CDLL) -> None:
    """In the new process: the kernel kills it when its parent ends, even by SIGKILL."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended in between
        os._exit(1)


def _environment(endpoints: list[str], rank: int) -> dict[str, str]:
    """What Paddle reads to find the others, and, of its own messages, errors alone."""
    return {
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_TRAINERS_NUM": str(len(endpoints)),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
        "PADDLE_MASTER": endpoints[0],
        "PADDLE_DISTRI_BACKEND": "gloo",
        "GLOG_minloglevel": os.environ.get("GLOG_minloglevel", "2"),
    }


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]
