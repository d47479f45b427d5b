"""Data parallelism: every process takes its share of a batch's rows, then gradients and counts are summed.

On one process all of this does nothing. The processes agree in everything else, because data, sub-networks and initial
weights are functions of the seed; so nothing but sums is exchanged. Sums of two are the same on both to the last bit.
"""

import contextlib
import io
import os
import pickle
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.base import core
from paddle.distributed.communication.group import Group

from ernie5.errors import Fault, UserError
from ernie5.modality.unified import UnifiedSequence
from ernie5.parallel import gloo
from ernie5.parallel.processes import meet

BUCKET = 16 * 2**20  # elements that are summed at once: what is copied together stays small
LONGEST_WAIT = 24 * 3600  # seconds that the others wait for the work of the first process


T = TypeVar("T")


class Ranks:
    """The processes of a run, and which of them this one is."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size
        self._waits = 0
        self._store = self._open_store() if size > 1 else None

    @property
    def is_first(self) -> bool:
        """Whether this process writes what the run leaves."""
        return self.rank == 0

    def share(self, rows: UnifiedSequence) -> UnifiedSequence:
        """This process's part of stacked rows [batch, seq]. UserError if there are fewer rows than processes."""
        count = len(rows.input_ids)
        if count < self.size:
            raise UserError(
                f"a batch has {count} rows for {self.size} processes: raise batch_tokens (and batch_start_tokens), "
                "or start fewer processes"
            )
        start, end = (count * rank // self.size for rank in (self.rank, self.rank + 1))
        return rows.part(start, end)

    def from_first(self, value: T | None) -> T:
        """What the first process gives, on all; the others give None. They trust each other: it is pickled."""
        if self.size == 1:
            return value
        data = np.frombuffer(pickle.dumps(value, pickle.HIGHEST_PROTOCOL), np.uint8) if self.is_first else None
        length = int(self.summed(np.array([len(data) if self.is_first else 0]))[0])
        tensor = paddle.to_tensor(data) if self.is_first else paddle.zeros([length], "uint8")
        _collective(lambda: dist.broadcast(tensor, 0))
        return value if self.is_first else pickle.loads(tensor.numpy().tobytes())

    def summed(self, values: np.ndarray, group: Group | None = None) -> np.ndarray:
        """The sum over processes, or a group of them, of numbers of the same shape and type (float64 or int64)."""
        if self.size == 1:
            return values
        total = paddle.to_tensor(values)
        _all_reduce(total, group)
        return total.numpy()

    @paddle.no_grad()
    def sum_gradients(self, parameters: Iterable[paddle.Tensor], group: Group | None = None) -> None:
        """Every gradient becomes the sum over processes, or a group of them; one that none has stays None."""
        if self.size == 1:
            return
        parameters = [parameter for parameter in parameters if not parameter.stop_gradient]
        have = self.summed(np.array([parameter.grad is not None for parameter in parameters], np.int64), group)
        reached = [parameter for parameter, count in zip(parameters, have, strict=True) if count]
        for bucket in _buckets(reached):
            total = paddle.concat([_gradient(parameter).flatten() for parameter in bucket])
            _all_reduce(total, group)
            parts = paddle.split(total, [parameter.size for parameter in bucket])
            for parameter, part in zip(bucket, parts, strict=True):
                parameter.grad = part.reshape(parameter.shape)

    def on_first(self, work: Callable[[], None]) -> None:
        """The first process works, the others wait for it however long it takes: gloo's own patience is 30 seconds."""
        if self._store is None:
            work()
            return
        self._waits += 1
        key = f"done/{self._waits}"
        if self.is_first:
            work()
            self._store.set(key, "1")
        else:
            _collective(lambda: self._store.wait(key))
        self.summed(np.zeros(1))  # the first one hosts the store: it must not end before the others have read

    def _open_store(self) -> core.TCPStore:
        """Keys and values that all processes see, hosted by the first."""
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1] if self.is_first else 0
        port = int(self.summed(np.array([port]))[0])
        host = os.environ["PADDLE_TRAINER_ENDPOINTS"].split(",")[0].rsplit(":", 1)[0]
        return core.TCPStore(host, port, self.is_first, self.size, LONGEST_WAIT)


ALONE = Ranks()


def _all_reduce(tensor: paddle.Tensor, group: Group | None = None) -> None:
    _collective(lambda: dist.all_reduce(tensor, group=group))


def _collective(operation: Callable[[], object]) -> None:
    try:
        operation()
    except (RuntimeError, OSError) as error:
        cause = str(error).strip().splitlines()[-1]
        raise Fault(f"another process of this run does not answer ({cause}): look at its log, then resume") from None


def _gradient(parameter: paddle.Tensor) -> paddle.Tensor:
    return parameter.grad if parameter.grad is not None else paddle.zeros_like(parameter)


def _buckets(parameters: Sequence[paddle.Tensor]) -> Iterable[list[paddle.Tensor]]:
    """Neighbours of one type, together of at most BUCKET elements, or one alone."""
    bucket: list[paddle.Tensor] = []
    for parameter in parameters:
        fits = sum(other.size for other in bucket) + parameter.size <= BUCKET
        if bucket and not (fits and bucket[0].dtype == parameter.dtype):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


def join() -> Ranks:
    """Joins the processes that Paddle's launcher, or `tools/train.py --nproc_per_node`, has started; or is alone."""
    if int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) == 1:
        return ALONE
    meet()
    gloo.install()
    with contextlib.redirect_stderr(io.StringIO()):  # Paddle lists the flags that are set
        dist.init_parallel_env()
    return Ranks(dist.get_rank(), dist.get_world_size())
