"""Run as a program: tools/train.py in which a process ends in the middle of a step, as said by the environment.

FAULT="rank:step:how[:size]": in that process, in that step, of the first job (or of every job of `size` processes):
`kill`, `stop` (SIGSTOP), `exit`, `raise`; `data`: reading ends in an error, for all; `nan`: in a gradient of it;
or `slow`, in every step.
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ernie5.errors import UserError, exit_cleanly
from tools import train

PLANTED = "self_attn.v_proj.weight"


def fail_at(rank: int, step: int, how: str, size: str) -> None:
    from ernie5.parallel.data_parallel import Ranks

    from_first, calls = Ranks.from_first, []

    def failing(self, value):
        """A step begins with the rows that the first process gives."""
        calls.append(1)
        if self.rank == rank and (self.size == int(size) if size else "ERNIE5_RESTART" not in os.environ):
            if how == "slow":
                time.sleep(0.1)
            elif len(calls) == step and how == "data":
                value = UserError("a planted line is bad")
            elif len(calls) == step and how == "nan":
                plant_nan()
            elif len(calls) == step:
                end(how)
        return from_first(self, value)

    Ranks.from_first = failing


def plant_nan() -> None:
    """Into a gradient of this process, before the next sum over processes."""
    from ernie5.parallel.parallelize import ParallelModel

    sum_gradients = ParallelModel.sum_gradients

    def poisoned(self):
        name, parameter = next((name, one) for name, one in self.model.named_parameters() if PLANTED in name)
        assert parameter.grad is not None, name
        parameter.grad.set_value(parameter.grad * float("nan"))
        sum_gradients(self)

    ParallelModel.sum_gradients = poisoned


def end(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        os._exit(3)
    elif how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    raise RuntimeError("a part of it broke")


def run(config, resume: str) -> None:
    rank, step, how, size = ((os.environ.get("FAULT") or "-1:0:none") + ":").split(":")[:4]
    from ernie5.ops import runtime

    runtime.start_paddle(config.train.threads)
    fail_at(int(rank), int(step), how, size)
    original(config, resume)


original, train.train = train.train, run

if __name__ == "__main__":
    exit_cleanly(train.main)
