"""Run as a program: processes that have a model between them save it, as a test tells them.

python saving.py COUNT LAYOUT FOLDER FAULT, where FAULT is

none, later   nothing fails; later: it is written in the background
disk, killed  of the second process, while it writes
alone         as killed, in the background; the first process saves what it has
memory        nothing fails; what each process needed is written down
"""

import json
import os
import signal
import sys
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ernie5.parallel.processes import other_processes

# Of each tensor: shape, dtype, the axis that `cut` cuts (None: everybody has it; "last": only the last process)
TENSORS = {
    "rows": ([8, 3], "float32", 0),
    "columns": ([3, 8], "float32", 1),
    "bias": ([8], "float32", 0),
    "half": ([4, 8], "bfloat16", 1),
    "everybody": ([5, 7], "float32", None),
    "count": ([2], "int64", None),
    "stage": ([6, 2], "float32", "last"),
}
BIG_BYTES, NUM_BIG = 2**18, 48  # of each tensor of `memory`, cut along the second axis so that pieces travel
BIG_SHARD_BYTES = 2**20


def whole(name: str):
    """Its values, NumPy; of bfloat16 the bits."""
    import numpy as np

    shape, dtype, _ = TENSORS[name]
    rng = np.random.default_rng(len(name))
    if dtype == "bfloat16":
        return rng.integers(0x3F80, 0x4080, shape).astype(np.uint16)
    return rng.normal(size=shape).astype(dtype) if dtype != "int64" else rng.integers(0, 99, shape)


def main(count: int, layout: str, folder: Path, fault: str) -> None:
    with other_processes(count, folder):
        from ernie5.ops.runtime import start_paddle

        start_paddle(1)
        import paddle

        from ernie5.errors import Fault, exit_cleanly
        from ernie5.parallel.data_parallel import join
        from ernie5.parallel.pieces import Cut
        from ernie5.train import saving
        from ernie5.train.checkpoint import CheckpointStore

        ranks = join()
        saving.SHARD_BYTES = 200
        degree = 2 if layout == "replicas" else count
        tensors, cuts = {}, {}
        for name, (_, _, axis) in TENSORS.items():
            if axis == "last" and layout != "whole" and ranks.rank != count - 1:
                continue
            array = whole(name)
            if layout in ("cut", "replicas") and isinstance(axis, int):
                cuts[name] = Cut(axis, ranks.rank % degree, degree)
                array = cuts[name].piece(array)
            tensors[name] = paddle.to_tensor(array)  # of uint16 it makes bfloat16
        store = CheckpointStore(folder / "checkpoints", 2, ranks)
        if fault == "memory":
            peaks = [peak_of_saving(saving.Saver(store, ranks, later), ranks, count) for later in (False, True)]
            (folder / f"peaks_{ranks.rank}.json").write_text(json.dumps(peaks))
            return
        saver = saving.Saver(store, ranks, in_background=fault in ("later", "alone"))
        write, part = saving.write_file, saving.Part(tensors, cuts)

        def failing(*given):
            if ranks.rank == 1 and fault == "disk":
                raise OSError(28, "No space left on device", str(given[0]))
            if ranks.rank == 1 and fault in ("killed", "alone"):
                os.kill(os.getpid(), signal.SIGKILL)
            return write(*given)

        optimizer = saving.Part({"state": tensors["everybody"]}, {})
        saver.save(1, part, optimizer, state={"step": 1}, config_text="a: 1\n")
        saving.write_file = failing
        second = {"step": 2, "model": part, "optimizer": optimizer, "state": {"step": 2}, "config_text": "a: 2\n"}

        def again() -> None:
            saver.save(**second)
            if fault == "later":  # another step
                tensors["everybody"].set_value(paddle.zeros([5, 7]))
            saver.poll()
            saver.finish()

        def alone() -> None:
            try:
                again()
            except Fault:
                saver.save_alone(**second)
                raise

        exit_cleanly(alone if fault == "alone" and ranks.is_first else again)


def peak_of_saving(saver, ranks, count: int) -> int:
    """Bytes that a process has allocated at most beyond its pieces of NUM_BIG tensors, while it saves them."""
    import paddle

    from ernie5.parallel.pieces import Cut
    from ernie5.train import saving

    saving.SHARD_BYTES = BIG_SHARD_BYTES
    shape = [4, BIG_BYTES // 16 // count]
    tensors = {f"big {i}": paddle.ones(shape) for i in range(NUM_BIG)}
    part = saving.Part(tensors, {name: Cut(1, ranks.rank, count) for name in tensors})
    tracemalloc.start()
    saver.save(1, part, saving.Part({}, {}), state={"step": 1}, config_text="a: 1\n")
    saver.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
