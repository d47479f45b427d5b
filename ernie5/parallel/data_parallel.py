"""Data parallelism: every process takes its share of a batch's rows, then gradients and counts are summed.

On one process all of this does nothing. The processes agree in everything else, because data, sub-networks and initial
weights are functions of the seed; so nothing but sums is exchanged. Sums of two are the same on both to the last bit.
"""

import contextlib
import io
import json
import os
import pickle
import socket
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import paddle
import paddle.distributed as dist
import yaml
from paddle.base import core
from paddle.distributed.communication.group import Group

import ernie5
from ernie5.errors import UserError
from ernie5.parallel import gloo
from ernie5.parallel.processes import PeerLost, peer_lost
from ernie5.parallel.roll_call import call_roll, read_seat

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

    def from_first(self, value: T | None) -> T:
        """What the first process gives, on all; the others give None. They trust each other: it is pickled."""
        if self.size == 1:
            return value
        data = np.frombuffer(pickle.dumps(value, pickle.HIGHEST_PROTOCOL), np.uint8) if self.is_first else None
        length = int(self.summed(np.array([len(data) if self.is_first else 0]))[0])
        tensor = paddle.to_tensor(data) if self.is_first else paddle.zeros([length], "uint8")
        guarded(lambda: dist.broadcast(tensor, 0))
        return value if self.is_first else pickle.loads(tensor.numpy().tobytes())

    def summed(self, values: np.ndarray, group: Group | None = None) -> np.ndarray:
        """The sum over processes, or a group of them, of numbers of the same shape and type (float64 or int64)."""
        if self.size == 1:
            return values
        total = paddle.to_tensor(values)
        _all_reduce(total, group)
        return total.numpy()

    def gathered(self, text: str) -> list[str]:
        """What each process says, by rank, on all of them."""
        if self.size == 1:
            return [text]
        found = _gathered(text.encode(errors="surrogateescape"), self.rank, self.size)
        return [one.decode(errors="surrogateescape") for one in found]

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
            guarded(lambda: self._store.wait(key))
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


def summed_by_name(values: dict[str, float], summed: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
    """Each of the values after `summed`, a sum over processes."""
    return dict(zip(values, summed(np.array(list(values.values()))).tolist(), strict=True))


def exchanged(value: T, group: Group) -> list[T]:
    """What each process of a group gives, in its order, on all of them. They trust each other: it is pickled."""
    given = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return [pickle.loads(one) for one in _gathered(given, group.rank, group.nranks, group)]


def _gathered(given: bytes, place: int, size: int, group: Group | None = None) -> list[bytes]:
    """What each of `size` processes gives, by its place, on all of them."""
    lengths = np.zeros(size, np.int64)
    lengths[place] = len(given)
    total = paddle.to_tensor(lengths)
    _all_reduce(total, group)
    padded = np.zeros(max(1, int(total.max())), np.uint8)
    padded[: len(given)] = np.frombuffer(given, np.uint8)
    parts: list[paddle.Tensor] = []
    guarded(lambda: dist.all_gather(parts, paddle.to_tensor(padded), group=group))
    return [part.numpy()[:length].tobytes() for part, length in zip(parts, total.tolist(), strict=True)]


def _all_reduce(tensor: paddle.Tensor, group: Group | None = None) -> None:
    guarded(lambda: dist.all_reduce(tensor, group=group))


def guarded(operation: Callable[[], object]) -> None:
    """An exchange; a Fault that names the process where another does not answer."""
    try:
        operation()
    except PeerLost:
        raise
    except (RuntimeError, OSError) as error:
        raise peer_lost(str(error).strip().splitlines()[-1]) from None


def join() -> Ranks:
    """Joins the processes that Paddle's launcher, or `tools/train.py --nproc_per_node`, has started; or is alone.

    Fault where one does not come; UserError for processes that do not belong together.
    """
    seat = read_seat(os.environ)
    if seat is None:
        return ALONE
    call_roll(seat)
    gloo.install()
    with contextlib.redirect_stderr(io.StringIO()):  # Paddle lists the flags that are set
        guarded(dist.init_parallel_env)
    return Ranks(dist.get_rank(), dist.get_world_size())


def check_same(ranks: Ranks, config_text: str) -> None:
    """UserError, on all processes, where one has another configuration, ernie5 or Paddle than the first."""
    said = {"ernie5": ernie5.__version__, "paddle": paddle.__version__, "config": yaml.safe_load(config_text)}
    texts = ranks.gathered(json.dumps(said, sort_keys=True, default=str))
    first = json.loads(texts[0])
    for rank, text in enumerate(texts):
        difference = _first_difference("", first, json.loads(text)) if text != texts[0] else None
        if difference:
            key, here, there = difference
            key = key.removeprefix("config.")
            raise UserError(
                f"{key} is {here!r} for process 0 and {there!r} for process {rank}: start all with the same file, "
                "options and versions"
            )


def _first_difference(key: str, one: object, other: object) -> tuple[str, object, object] | None:
    """The key of the first value that differs between two trees of JSON, with both values."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return None if one == other else (key, one, other)
    for name in [*one, *(name for name in other if name not in one)]:
        inner = f"{key}.{name}".removeprefix(".")
        found = _first_difference(inner, one.get(name, "(absent)"), other.get(name, "(absent)"))
        if found:
            return found
    return None


def first_named(ranks: Ranks, name: str | None) -> tuple[int, str] | None:
    """The first process that names something (a parameter with a NaN), and what; None where none does. On all."""
    return next(((rank, text) for rank, text in enumerate(ranks.gathered(name or "")) if text), None)
