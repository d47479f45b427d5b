"""Tensors of a model of which every process has some, or a piece of some; and how they come together.

All processes say what they have; each whole tensor is then put together by one of them, so that all have about as much
to write. What is written has no trace of who had it.

Messages have one order, which all processes walk through: whoever waits, waits for something earlier, so that it ends
whether sends wait for their receivers (NCCL) or not (`gloo.py`).
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import paddle
import paddle.distributed as dist

from ernie5.model.safetensors_file import NUMPY_OF_TAG, dtype_tag, host_array
from ernie5.parallel.data_parallel import Ranks, guarded


class Cut(NamedTuple):
    """This process has piece `place` of `degree` equal ones along `axis`."""

    axis: int
    place: int
    degree: int

    def piece(self, whole: np.ndarray) -> np.ndarray:
        """A view of piece `place`; ValueError where pieces would not be equal."""
        length, rest = divmod(whole.shape[self.axis], self.degree)
        if rest:
            raise ValueError(f"{self.degree} pieces of {whole.shape[self.axis]} along axis {self.axis} are not equal")
        index = [slice(None)] * whole.ndim
        index[self.axis] = slice(self.place * length, (self.place + 1) * length)
        return whole[tuple(index)]


WHOLE = Cut(0, 0, 1)


def own_pieces(tensors: Mapping[str, np.ndarray], cuts: Mapping[str, Cut]) -> dict[str, np.ndarray]:
    """Whole tensors -> this process's pieces of them, views that read no more than themselves from a mapped file."""
    return {name: cuts[name].piece(array) if name in cuts else array for name, array in tensors.items()}


@dataclass
class Entry:
    """A whole tensor: its pieces, who has them, and who puts it together."""

    tag: str  # safetensors name of its dtype
    piece_shape: list[int]
    axis: int
    holders: list[list[int]]  # of each piece, the processes that have it
    writer: int = -1
    senders: list[int] = field(default_factory=list)  # of each piece, the process that gives it

    @property
    def shape(self) -> list[int]:
        return [dim * (len(self.holders) if i == self.axis else 1) for i, dim in enumerate(self.piece_shape)]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * NUMPY_OF_TAG[self.tag].itemsize


class Catalogue:
    """What all processes have, by name; the same on all of them."""

    def __init__(self, ranks: Ranks, tensors: Mapping[str, paddle.Tensor], cuts: Mapping[str, Cut], to_first: bool):
        """All processes call it together. to_first: the first one puts everything together; else all share the work.

        ValueError, on all of them, for a tensor that processes have differently, or of which nobody has a piece.
        """
        self._ranks = ranks
        own = {name: [dtype_tag(one), list(one.shape), *cuts.get(name, WHOLE)] for name, one in tensors.items()}
        self.entries: dict[str, Entry] = {}
        for rank, text in enumerate(ranks.gathered(json.dumps(own))):
            for name, (tag, shape, axis, place, degree) in json.loads(text).items():
                entry = self.entries.setdefault(name, Entry(tag, shape, axis, [[] for _ in range(degree)]))
                known = entry.tag, entry.piece_shape, entry.axis, len(entry.holders)
                if known != (tag, shape, axis, degree):
                    raise ValueError(
                        f"{name}: {(tag, shape, axis, degree)} on process {rank}, {known} on one before it"
                    )
                entry.holders[place].append(rank)
        for name, entry in self.entries.items():
            if not all(entry.holders):
                raise ValueError(f"{name}: no process has piece {entry.holders.index([])} of {len(entry.holders)}")
        self._share(to_first)

    def _share(self, to_first: bool) -> None:
        """A tensor goes to whoever has to write least of those who have any of it; the largest are given first."""
        written, sent = np.zeros([2, self._ranks.size], np.int64)
        for entry in sorted(self.entries.values(), key=lambda entry: -entry.num_bytes):
            holders = sorted({rank for ranks in entry.holders for rank in ranks})
            entry.writer = 0 if to_first else min(holders, key=lambda rank: (written[rank], rank))
            written[entry.writer] += entry.num_bytes
            for ranks in entry.holders:
                is_there = entry.writer in ranks
                sender = entry.writer if is_there else min(ranks, key=lambda rank: (sent[rank], rank))
                sent[sender] += 0 if is_there else entry.num_bytes // len(entry.holders)
                entry.senders.append(sender)

    def written_by(self, rank: int) -> dict[str, int]:
        """Name -> bytes of what a process puts together, in order."""
        return {name: entry.num_bytes for name, entry in self.entries.items() if entry.writer == rank}

    def collect(
        self, tensors: Mapping[str, paddle.Tensor], names: Collection[str] | None = None, copied: bool = False
    ) -> dict[str, np.ndarray]:
        """The whole tensors that this process puts together, all or those of `names`, the same on all processes.

        All processes call it together, and return when all have what they put together: beyond what it has, a process
        needs memory for that and one piece. Arrays may be the memory of the tensors themselves, where nothing had to
        travel, unless they are to be `copied`.
        """
        found, travelled = {}, False
        for name, entry in self.entries.items():
            if names is not None and name not in names:
                continue
            travelled = travelled or any(sender != entry.writer for sender in entry.senders)
            if entry.writer == self._ranks.rank:
                found[name] = self._put_together(entry, tensors.get(name), copied)
                continue
            for sender in entry.senders:
                if sender == self._ranks.rank:
                    tensor = tensors[name].detach().contiguous()
                    guarded(lambda tensor=tensor, to=entry.writer: dist.send(tensor, to))
        if travelled:
            self._ranks.summed(np.zeros(1))  # sends may not wait, and fill the memory of a slow writer
        return found

    def _put_together(self, entry: Entry, own: paddle.Tensor | None, copied: bool) -> np.ndarray:
        rank, degree = self._ranks.rank, len(entry.senders)
        pieces = (own if sender == rank else self._received(entry, sender) for sender in entry.senders)
        if degree == 1:
            array = _array(next(pieces))
            return np.array(array) if copied and own is not None and own.place.is_cpu_place() else array
        whole = np.empty(entry.shape, NUMPY_OF_TAG[entry.tag])
        for place, piece in enumerate(pieces):
            Cut(entry.axis, place, degree).piece(whole)[...] = _array(piece)
        return whole

    def _received(self, entry: Entry, sender: int) -> paddle.Tensor:
        dtype = "bfloat16" if entry.tag == "BF16" else NUMPY_OF_TAG[entry.tag].name
        piece = paddle.empty(entry.piece_shape, dtype)
        guarded(lambda: dist.recv(piece, sender))
        return piece


def _array(tensor: paddle.Tensor) -> np.ndarray:
    """A tensor's elements in host memory; the bits of bfloat16 as `uint16`, which files tell from int16."""
    array = host_array(tensor)
    return array.view(np.uint16) if dtype_tag(tensor) == "BF16" else array


def gather_to_first(
    ranks: Ranks, tensors: Mapping[str, paddle.Tensor], cuts: Mapping[str, Cut]
) -> dict[str, np.ndarray] | None:
    """All whole tensors, on the first process; None on the others. All processes call it together."""
    found = Catalogue(ranks, tensors, cuts, to_first=True).collect(tensors)
    return found if ranks.is_first else None
