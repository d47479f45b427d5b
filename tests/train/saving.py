"""Run as a program: processes that have a model between them save it, as a test tells them.

python saving.py COUNT LAYOUT FOLDER FAULT, where FAULT is none, disk, killed or later
"""

import os
import signal
import sys
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

        from ernie5.errors import exit_cleanly
        from ernie5.parallel.data_parallel import join
        from ernie5.parallel.pieces import Cut
        from ernie5.train import saving
        from ernie5.train.checkpoint import CheckpointStore

        ranks = join()
        saving.SHARD_BYTES = 200
        degree = 2 if layout == "replicas" else count
        tensors, cuts = {}, {}
        for name, (_, _, axis) in TENSORS.items():
            if axis == "last" and ranks.rank != count - 1:
                continue
            array = whole(name)
            if layout != "same" and isinstance(axis, int):
                cuts[name] = Cut(axis, ranks.rank % degree, degree)
                array = cuts[name].piece(array)
            tensors[name] = paddle.to_tensor(array)  # of uint16 it makes bfloat16
        store = CheckpointStore(folder / "checkpoints")
        saver = saving.Saver(store, ranks, in_background=fault == "later")
        write, part = saving._write, saving.Part(tensors, cuts)

        def failing(*given):
            if ranks.rank == 1 and fault == "disk":
                raise OSError(28, "No space left on device", str(given[0] / "model"))
            if ranks.rank == 1 and fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            return write(*given)

        saver.save(1, part, saving.Part({"state": tensors["everybody"]}, {}), state={"step": 1}, config_text="a: 1\n")
        saving._write = failing

        def again() -> None:
            given = saving.Part({"state": tensors["everybody"]}, {}), {"step": 2}, "a: 2\n"
            saver.save(2, part, given[0], state=given[1], config_text=given[2])
            tensors["everybody"].set_value(paddle.zeros([5, 7]))
            saver.poll()
            saver.finish()

        exit_cleanly(again)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
