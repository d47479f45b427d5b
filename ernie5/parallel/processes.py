"""Starts the other processes of a data-parallel run on this machine, as Paddle's launcher does, with one terminal.

`python -m paddle.distributed.launch` works as well, and is what clusters take; here the first process is the one that
the user has started, so that its progress bar and its exit status are his.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ernie5.errors import UserError

OPTION = "--nproc_per_node"
LOG_NAME = "ernie5_rank_{}.log"
PATIENCE = 30.0  # seconds that the others have to end by themselves


@contextmanager
def other_processes(count: int, log_dir: Path) -> Iterator[None]:
    """`count` - 1 more processes of this very command, while the block runs; this one becomes the first of `count`.

    What the others print goes to files of `log_dir`. They end with the block: at once if it fails. UserError if this
    process belongs to a launched run already.
    """
    if count == 1:
        yield
        return
    if "PADDLE_TRAINERS_NUM" in os.environ:
        raise UserError(f"{OPTION}: this process was started by a launcher already: give the number there")
    endpoints = [f"127.0.0.1:{port}" for port in _free_ports(count)]
    log_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        others = []
        for rank in range(1, count):
            log = stack.enter_context(open(log_dir / LOG_NAME.format(rank), "wb"))
            environment = os.environ | _environment(endpoints, rank)
            command = [sys.executable, *_without_option(sys.argv)]
            others.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True))
        os.environ.update(_environment(endpoints, 0))
        try:
            yield
            for process in others:
                process.wait(PATIENCE)
        finally:
            for process in others:
                process.kill()
                process.wait()


def _without_option(arguments: list[str]) -> list[str]:
    """The command line of another process: it is one of those started, it starts none."""
    kept, skips = [], False
    for argument in arguments:
        if not skips and argument != OPTION and not argument.startswith(f"{OPTION}="):
            kept.append(argument)
        skips = argument == OPTION
    return kept


def _environment(endpoints: list[str], rank: int) -> dict[str, str]:
    """What Paddle reads to find the others."""
    return {
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_TRAINERS_NUM": str(len(endpoints)),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
        "PADDLE_MASTER": endpoints[0],
        "PADDLE_DISTRI_BACKEND": "gloo",
        "GLOG_minloglevel": "2",
    }


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]
