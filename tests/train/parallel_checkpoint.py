"""Run as a program: processes save twice, and one of them is killed at some point of the second save, or they resume.

python parallel_checkpoint.py COUNT FOLDER POINT PROCESS [SECOND_STEP]

POINT: where the process is killed, see `arm`; or "resume": what each process finds is written down.
"""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ernie5.parallel.processes import other_processes


def whole(step: int, shape: list[int]):
    import numpy as np

    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1000 * step


def die(*_, **__) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """From here on this process does not survive the point: what it calls there kills it."""
    import paddle.distributed as dist

    from ernie5.model import safetensors_file
    from ernie5.parallel.data_parallel import Ranks
    from ernie5.train import checkpoint

    store, rename, renames = checkpoint.CheckpointStore, Path.rename, []

    def die_in_the_second(path: Path, target: Path) -> Path:
        renames.append(target)
        return die() if len(renames) == 2 else rename(path, target)

    def write_half(path: Path, tensors) -> None:
        path.write_bytes(b"begun")
        die()

    replaced = {
        "send": (dist, "send", die),
        "half a file": (safetensors_file, "write_file", write_half),
        "tell": (Ranks, "gathered", die),
        "state": (checkpoint, "write_json", die),
        "manifest": (checkpoint, "write_manifest", die),
        "first rename": (store, "_put_in_place", die),
        "second rename": (Path, "rename", die_in_the_second),
        "retain": (store, "_retain", die),
    }
    setattr(*replaced[point])


def main(count: int, folder: Path, point: str, process: int, second: int) -> None:
    with other_processes(count, folder):
        from ernie5.ops.runtime import start_paddle

        start_paddle(1)
        import paddle

        from ernie5.errors import UserError, exit_cleanly
        from ernie5.model import safetensors_file
        from ernie5.parallel.data_parallel import join
        from ernie5.parallel.pieces import Cut, own_pieces
        from ernie5.train import saving
        from ernie5.train.checkpoint import CheckpointStore

        ranks = join()
        store = CheckpointStore(folder / "checkpoints", 2, ranks)
        cuts = {"rows": Cut(0, ranks.rank, count), "columns": Cut(1, ranks.rank, count)}
        if point == "resume":
            try:
                found = store.open("auto")
                own = own_pieces(found.model_tensors(), cuts)
                said = [found.step, {name: array.tolist() for name, array in own.items()}]
            except UserError as error:
                said = str(error)
            (folder / f"resumed_{ranks.rank}.json").write_text(json.dumps(said))
            return
        saving.write_file = lambda *given: safetensors_file.write_file(*given)
        saver = saving.Saver(store, ranks)

        def save(step: int) -> None:
            arrays = {"rows": whole(step, [8, 4]), "columns": whole(step, [4, 8]), "same": whole(step, [5])}
            own = own_pieces(arrays, cuts)
            part = saving.Part({name: paddle.to_tensor(array.copy()) for name, array in own.items()}, cuts)
            saver.save(step, part, saving.Part({}, {}), state={"step": step}, config_text="a: 1\n")

        save(1)
        if ranks.rank == process:
            arm(point)
        exit_cleanly(lambda: save(second))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
