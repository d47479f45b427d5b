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
from ernie5.parallel.runs import Run


class Cut(NamedTuple):
    """This process has piece `place` of `degree` equal ones along `axis`, or a run of the elements of that piece."""

    axis: int
    place: int
    degree: int
    run: Run | None = None

    def piece(self, whole: np.ndarray) -> np.ndarray:
        """A view of piece `place`, or what it has of that, flat; ValueError where pieces would not be equal."""
        length, rest = divmod(whole.shape[self.axis], self.degree)
        if rest:
            raise ValueError(f"{self.degree} pieces of {whole.shape[self.axis]} along axis {self.axis} are not equal")
        index = [slice(None)] * whole.ndim
        index[self.axis] = slice(self.place * length, (self.place + 1) * length)
        piece = whole[tuple(index)]
        return piece if self.run is None else self.run.of(piece)


WHOLE = Cut(0, 0, 1)


def own_pieces(tensors: Mapping[str, np.ndarray], cuts: Mapping[str, Cut]) -> dict[str, np.ndarray]:
    """Whole tensors -> this process's pieces of them, views that read no more than themselves from a mapped file."""
    return {name: cuts[name].piece(array) if name in cuts else array for name, array in tensors.items()}


class Held(NamedTuple):
    """Elements `start` to `stop` of the memory of piece `place`; all of it, where the piece is not shared out."""

    place: int
    start: int
    stop: int


@dataclass
class Entry:
    """A whole tensor: what there is of it, who has that, and who puts it together."""

    tag: str  # safetensors name of its dtype
    piece_shape: list[int]
    axis: int
    degree: int
    holders: dict[Held, list[int]] = field(default_factory=dict)  # the processes that have it, in the order of `Held`
    writer: int = -1
    senders: dict[Held, int] = field(default_factory=dict)  # the process that gives it

    @property
    def shape(self) -> list[int]:
        return [dim * (self.degree if i == self.axis else 1) for i, dim in enumerate(self.piece_shape)]

    @property
    def item_bytes(self) -> int:
        return NUMPY_OF_TAG[self.tag].itemsize

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.item_bytes

    def error(self) -> str | None:
        """What is wrong with what there is."""
        for place in range(self.degree):
            ends = [(held.start, held.stop) for held in self.holders if held.place == place]
            if not ends:
                return f"no process has piece {place} of {self.degree}"
            size = math.prod(self.piece_shape)
            if [0, *(stop for _, stop in ends)] != [*(start for start, _ in ends), size]:
                return f"processes have the elements {ends} of piece {place}, which has {size}"
        return None


class Catalogue:
    """What all processes have, by name; the same on all of them."""

    def __init__(self, ranks: Ranks, tensors: Mapping[str, paddle.Tensor], cuts: Mapping[str, Cut], to_first: bool):
        """All processes call it together. to_first: the first one puts everything together; else all share the work.

        ValueError, on all of them, for a tensor that processes have differently, or of which nobody has a piece.
        """
        self._ranks = ranks
        own = {name: _described(one, cuts.get(name, WHOLE)) for name, one in tensors.items()}
        self.entries: dict[str, Entry] = {}
        for rank, text in enumerate(ranks.gathered(json.dumps(own))):
            for name, (tag, shape, axis, degree, *held) in json.loads(text).items():
                entry = self.entries.setdefault(name, Entry(tag, shape, axis, degree))
                known = entry.tag, entry.piece_shape, entry.axis, entry.degree
                if known != (tag, shape, axis, degree):
                    raise ValueError(
                        f"{name}: {(tag, shape, axis, degree)} on process {rank}, {known} on one before it"
                    )
                entry.holders.setdefault(Held(*held), []).append(rank)
        for name, entry in self.entries.items():
            entry.holders = dict(sorted(entry.holders.items()))
            if error := entry.error():
                raise ValueError(f"{name}: {error}")
        self._share(to_first)

    def _share(self, to_first: bool) -> None:
        """A tensor goes to whoever has to write least of those who have any of it; the largest are given first."""
        written, sent = np.zeros([2, self._ranks.size], np.int64)
        for entry in sorted(self.entries.values(), key=lambda entry: -entry.num_bytes):
            holders = sorted({rank for ranks in entry.holders.values() for rank in ranks})
            entry.writer = 0 if to_first else min(holders, key=lambda rank: (written[rank], rank))
            written[entry.writer] += entry.num_bytes
            for held, ranks in entry.holders.items():
                is_there = entry.writer in ranks
                sender = entry.writer if is_there else min(ranks, key=lambda rank: (sent[rank], rank))
                sent[sender] += 0 if is_there else (held.stop - held.start) * entry.item_bytes
                entry.senders[held] = sender

    def written_by(self, rank: int) -> dict[str, int]:
        """Name -> bytes of what a process puts together, in order."""
        return {name: entry.num_bytes for name, entry in self.entries.items() if entry.writer == rank}

    def collect(
        self, tensors: Mapping[str, paddle.Tensor], names: Collection[str] | None = None, copied: bool = False
    ) -> dict[str, np.ndarray]:
        """The whole tensors that this process puts together, all or those of `names`, the same on all processes.

        All processes call it together, and return when all have what they put together: beyond what it has, a process
        needs memory for that and two pieces. Arrays may be the memory of the tensors themselves, where nothing had to
        travel, unless they are to be `copied`.
        """
        found, travelled = {}, False
        for name, entry in self.entries.items():
            if names is not None and name not in names:
                continue
            travelled = travelled or any(sender != entry.writer for sender in entry.senders.values())
            if entry.writer == self._ranks.rank:
                found[name] = self._put_together(entry, tensors.get(name), copied)
                continue
            for sender in entry.senders.values():
                if sender == self._ranks.rank:
                    tensor = tensors[name].detach().contiguous()
                    guarded(lambda tensor=tensor, to=entry.writer: dist.send(tensor, to))
        if travelled:
            self._ranks.summed(np.zeros(1))  # sends may not wait, and fill the memory of a slow writer
        return found

    def _put_together(self, entry: Entry, own: paddle.Tensor | None, copied: bool) -> np.ndarray:
        if len(entry.senders) == 1:
            array = self._part(entry, *entry.senders.items(), own).reshape(entry.shape)
            return np.array(array) if copied and own is not None and own.place.is_cpu_place() else array
        whole = np.empty(entry.shape, NUMPY_OF_TAG[entry.tag])
        for place in range(entry.degree):
            piece = Cut(entry.axis, place, entry.degree).piece(whole)
            memory = piece if piece.flags.c_contiguous else np.empty(entry.piece_shape, whole.dtype)
            for held, sender in entry.senders.items():
                if held.place == place:
                    memory.reshape(-1)[held.start : held.stop] = self._part(entry, (held, sender), own)
            if memory is not piece:
                piece[...] = memory
        return whole

    def _part(self, entry: Entry, given: tuple[Held, int], own: paddle.Tensor | None) -> np.ndarray:
        """Flat, from whoever gives it."""
        held, sender = given
        if sender == self._ranks.rank:
            return _array(own).reshape(-1)
        dtype = "bfloat16" if entry.tag == "BF16" else NUMPY_OF_TAG[entry.tag].name
        part = paddle.empty([held.stop - held.start], dtype)
        guarded(lambda: dist.recv(part, sender))
        return _array(part)


def _described(tensor: paddle.Tensor, cut: Cut) -> list:
    """What a process says of its tensor: dtype, shape of the piece, axis, degree, and what it has as `Held`."""
    shape = list(tensor.shape if cut.run is None else cut.run.shape)
    ends = (0, math.prod(shape)) if cut.run is None else (cut.run.start, cut.run.stop)
    return [dtype_tag(tensor), shape, cut.axis, cut.degree, cut.place, *ends]


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
