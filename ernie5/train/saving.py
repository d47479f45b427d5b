"""Saves what several processes have between them: each puts together and writes a share of the whole tensors.

The folder is that of one process (`checkpoint.py`), so that it loads under any layout; over several machines it lies on
a file system that all of them see. The first process gives it its name when everybody has written. In the background
copies of the tensors are written while training goes on, and the folder gets its name between two later steps.
"""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
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
    files: dict[str, list[str]]  # names of the tensors of each file that this process writes
    described: dict[str, Any]
    writing: Future  # of the record of each of them


class Saver:
    """Writes checkpoints of a run. All processes call its methods together, but for `save_alone`."""

    def __init__(self, store: CheckpointStore, ranks: Ranks, in_background: bool = False):
        self._store, self._ranks, self._in_background = store, ranks, in_background
        self._pending: _Pending | None = None
        self._pool = ThreadPoolExecutor(1)

    def save(self, step: int, model: Part, optimizer: Part, **described: Any) -> None:
        """`described`: as `CheckpointStore.commit` takes it. Fault naming the process that could not write."""
        self.finish()
        files, arrays, total_bytes = {}, {}, {}
        for stem, part in (("model", model), ("optimizer", optimizer)):
            catalogue = Catalogue(self._ranks, *part, to_first=False)
            collected = catalogue.collect(part.tensors)
            if self._in_background:  # the next step writes into the same memory
                collected = {name: np.array(array) for name, array in collected.items()}
            of_stem = self._files(stem, catalogue)
            files |= of_stem
            arrays |= {file: {name: collected[name] for name in names} for file, names in of_stem.items()}
            total_bytes[stem] = sum(entry.num_bytes for entry in catalogue.entries.values())
        temporary = Path(self._agreed(lambda: str(self._store.begin(step))))
        writing = self._pool.submit(_write, temporary, arrays)
        self._pending = _Pending(step, temporary, total_bytes, files, described, writing)
        if not self._in_background:
            self.finish()

    def save_alone(self, step: int, model: Part, optimizer: Part, **described: Any) -> None:
        """By a process that has everything, where the others may be gone."""
        self._store.save(step=step, model_tensors=model.tensors, optimizer_tensors=optimizer.tensors, **described)

    def poll(self) -> None:
        """Gives the checkpoint its name if everybody has written."""
        if self._pending is None:
            return
        if self._ranks.summed(np.array([self._pending.writing.done()], np.int64))[0] == self._ranks.size:
            self.finish()

    def finish(self) -> None:
        """Waits for what is being written."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        error = pending.writing.exception()
        if error is not None and self._ranks.size == 1:
            self._store.abandon(pending.temporary)
            raise error
        records = {} if error else {file: asdict(record) for file, record in pending.writing.result().items()}
        said = self._ranks.gathered(json.dumps([str(error or ""), records, pending.files]))
        said = [json.loads(text) for text in said]
        failed = [f"process {rank}: {cause}" for rank, (cause, _, _) in enumerate(said) if cause]
        if failed:
            if self._ranks.is_first:
                self._store.abandon(pending.temporary)
            raise Fault(f"the checkpoint of step {pending.step} could not be written ({'; '.join(failed)})")
        self._agreed(lambda: str(self._commit(pending, said)))

    def _files(self, stem: str, catalogue: Catalogue) -> dict[str, list[str]]:
        """File -> names of the tensors in it, of those that this process writes."""
        cuts = []
        for rank in range(self._ranks.size):
            sizes = catalogue.written_by(rank)
            cuts.append(cut_names(sizes, SHARD_BYTES) if sizes else [])
        if not any(cuts):
            cuts[0] = [[]]  # a file without tensors: there is one
        names = shard_names(stem, [len(shards) for shards in cuts])
        return dict(zip(names[self._ranks.rank], cuts[self._ranks.rank], strict=True))

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
        return self._store.commit(pending.temporary, records, step=pending.step, **pending.described)

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


def _write(folder: Path, files: dict[str, dict[str, np.ndarray]]) -> dict[str, FileRecord]:
    """Name -> record of files with these tensors, written side by side: hashing takes the time."""
    if not files:
        return {}
    with ThreadPoolExecutor(min(num_workers(), len(files))) as pool:
        records = pool.map(write_file, [folder / file for file in files], files.values())
        found = dict(zip(files, records, strict=True))
    sync_folder(folder)
    return found
