"""Saves what several processes have between them: each puts together and writes a share of the whole tensors.

The folder is that of one process (`checkpoint.py`), so that it loads under any layout; over several machines it lies on
a file system that all of them see. The first process gives it its name when everybody has written. Tensors come
together file by file: beyond what it has, a process holds one file, or, in the background, where copies are written
while training goes on and the folder gets its name between two later steps, its share.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle

from ernie5.errors import Fault
from ernie5.model.safetensors_file import FileRecord, write_file
from ernie5.model.weights import cut_names, index_name, num_workers, shard_names, sync_folder, write_index
from ernie5.parallel.data_parallel import Ranks
from ernie5.parallel.pieces import Catalogue, Cut
from ernie5.train.checkpoint import SHARD_BYTES, CheckpointStore


class Part(NamedTuple):
    """What this process has of the model, or of its optimizer's state."""

    tensors: Mapping[str, paddle.Tensor]
    cuts: Mapping[str, Cut]


class _Pending(NamedTuple):
    """A checkpoint that is being written."""

    step: int
    temporary: Path
    total_bytes: dict[str, int]  # by stem
    described: dict[str, Any]
    files: dict[str, list[str]]  # names of the tensors of each file that this process writes
    writing: dict[str, Future]  # of the record of each of them


class _Round(NamedTuple):
    """What all processes put together at once: a file each, of those that have one left."""

    names: set[str]  # of all tensors
    file: str | None  # of this process
    own: list[str]  # names of the tensors in it


class Saver:
    """Writes checkpoints of a run. All processes call its methods together, but for `save_alone`."""

    def __init__(
        self, store: CheckpointStore, ranks: Ranks, in_background: bool = False, resumed_step: int | None = None
    ):
        self._store, self._ranks, self._in_background = store, ranks, in_background
        self._pending: _Pending | None = None
        self._newest_step = resumed_step  # of which a whole checkpoint stands, as far as the first process knows
        self._pool = ThreadPoolExecutor(num_workers())  # files are written side by side: hashing takes the time

    def save(self, step: int, model: Part, optimizer: Part, **described: Any) -> None:
        """`described`: as `CheckpointStore.commit` takes it. Fault naming the process that could not write."""
        self.finish()
        parts = {"model": model, "optimizer": optimizer}
        catalogues = {stem: Catalogue(self._ranks, *part, to_first=False) for stem, part in parts.items()}
        sizes = {stem: sum(entry.num_bytes for entry in one.entries.values()) for stem, one in catalogues.items()}
        temporary = Path(self._agreed(lambda: str(self._store.begin(step))))
        self._pending = _Pending(step, temporary, sizes, described, {}, {})
        for stem, part in parts.items():
            for together in self._rounds(stem, catalogues[stem]):
                self._write_round(self._pending, catalogues[stem], part.tensors, together)
        if not self._in_background:
            self.finish()

    def save_alone(self, step: int, model: Part, optimizer: Part, **described: Any) -> None:
        """By a process that has everything, where the others may be gone; nothing if a checkpoint of the step stands.

        What several processes are writing is given up, since it takes all of them to finish it.
        """
        if self._ranks.size == 1:
            self.finish()
        elif self._pending is not None:
            wait(self._pending.writing.values())
            shutil.rmtree(self._pending.temporary, ignore_errors=True)  # others may still write into it
            self._pending = None
        if self._newest_step != step:
            self._store.save(step=step, model_tensors=model.tensors, optimizer_tensors=optimizer.tensors, **described)
            self._newest_step = step

    def poll(self) -> None:
        """Gives the checkpoint its name if everybody has written."""
        if self._pending is None:
            return
        is_done = all(writing.done() for writing in self._pending.writing.values())
        if self._ranks.summed(np.array([is_done], np.int64))[0] == self._ranks.size:
            self.finish()

    def finish(self) -> None:
        """Waits for what is being written."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        records, error = _written(pending)
        if error is not None and self._ranks.size == 1:
            self._store.abandon(pending.temporary)
            raise error
        said = self._ranks.gathered(json.dumps([str(error or ""), records, pending.files]))
        said = [json.loads(text) for text in said]
        failed = [f"process {rank}: {cause}" for rank, (cause, _, _) in enumerate(said) if cause]
        if failed:
            if self._ranks.is_first:
                self._store.abandon(pending.temporary)
            raise Fault(f"the checkpoint of step {pending.step} could not be written ({'; '.join(failed)})")
        self._agreed(lambda: str(self._commit(pending, said)))

    def _rounds(self, stem: str, catalogue: Catalogue) -> Iterator[_Round]:
        """The files of all processes, the n-th of each at once; as many rounds on all."""
        cuts = []
        for rank in range(self._ranks.size):
            sizes = catalogue.written_by(rank)
            cuts.append(cut_names(sizes, SHARD_BYTES) if sizes else [])
        if not any(cuts):
            cuts[0] = [[]]  # a file without tensors: there is one
        files = shard_names(stem, [len(shards) for shards in cuts])[self._ranks.rank]
        for of_all, file in zip_longest(zip_longest(*cuts, fillvalue=[]), files):
            yield _Round({name for names in of_all for name in names}, file, of_all[self._ranks.rank])

    def _write_round(
        self, pending: _Pending, catalogue: Catalogue, tensors: Mapping[str, paddle.Tensor], together: _Round
    ) -> None:
        """Returns when what was put together beside the tensors has been written, but in the background."""
        arrays = catalogue.collect(tensors, together.names, copied=self._in_background)
        if together.file is None:
            return
        pending.files[together.file] = together.own
        writing = self._pool.submit(write_file, pending.temporary / together.file, arrays)
        pending.writing[together.file] = writing
        if not self._in_background and not all(_is_memory_of(tensors.get(name), arrays[name]) for name in arrays):
            wait([writing])

    def _commit(self, pending: _Pending, said: list) -> Path:
        """With the records and the names of tensors that all processes give."""
        records = {file: FileRecord(**record) for _, of_process, _ in said for file, record in of_process.items()}
        tensors = {file: names for _, _, of_process in said for file, names in of_process.items()}
        for stem, total in pending.total_bytes.items():
            shards = [file for file in tensors if file.startswith(f"{stem}-")]
            if shards:
                weight_map = {name: file for file in shards for name in tensors[file]}
                index = index_name(stem)
                records[index] = write_index(pending.temporary / index, weight_map, total)
        path = self._store.commit(pending.temporary, records, step=pending.step, **pending.described)
        self._newest_step = pending.step
        return path

    def _agreed(self, work: Callable[[], str]) -> str:
        """What the first process makes, on all; where it cannot, all say so."""
        made, error = "", None
        if self._ranks.is_first:
            try:
                made = work()
            except OSError as cause:
                error = cause
        if self._ranks.size == 1 and error is not None:
            raise error
        made, failed = json.loads(self._ranks.gathered(json.dumps([made, str(error or "")]))[0])
        if failed:
            raise Fault(f"a checkpoint could not be written (process 0: {failed})")
        return made


def _written(pending: _Pending) -> tuple[dict[str, dict], Exception | None]:
    """The records of this process's files, as JSON takes them, when all are written; or what failed."""
    wait(pending.writing.values())
    try:
        records = {file: asdict(writing.result()) for file, writing in pending.writing.items()}
        if records:
            sync_folder(pending.temporary)
    except Exception as error:  # of a thread, told by the process
        return {}, error
    return records, None


def _is_memory_of(tensor: paddle.Tensor | None, array: np.ndarray) -> bool:
    return tensor is not None and tensor.place.is_cpu_place() and tensor.data_ptr() == array.ctypes.data
