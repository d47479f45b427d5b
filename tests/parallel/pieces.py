"""Run as a program on several processes: each collects what it puts together, and writes it down for a test to compare.

python pieces.py COUNT LAYOUT FOLDER
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ernie5.parallel.processes import other_processes

# Of each tensor: shape, dtype, the axis that is cut (None: everybody has it; "last": only the last process)
TENSORS = {
    "rows": ([8, 3], "float32", 0),
    "columns": ([3, 8], "float32", 1),
    "middle": ([2, 4, 3], "float32", 1),
    "bias": ([8], "float32", 0),
    "half": ([4, 8], "bfloat16", 1),
    "half_bias": ([3], "bfloat16", "last"),
    "flags": ([8], "bool", 0),
    "everybody": ([5, 7], "float32", None),
    "scalar": ([], "int64", "last"),
}
MANY = 40  # tensors that a slow process collects


def whole(name: str):
    """Its values, NumPy; of bfloat16 the bits."""
    import numpy as np

    shape, dtype, _ = TENSORS[name]
    rng = np.random.default_rng(len(name))
    if dtype == "bfloat16":
        return rng.integers(0x3F80, 0x4080, shape).astype(np.uint16)
    return np.asarray(rng.normal(size=shape) if dtype == "float32" else rng.integers(0, 2, shape)).astype(dtype)


def main(count: int, layout: str, folder: Path) -> None:
    with other_processes(count, folder):
        from ernie5.ops.runtime import start_paddle

        start_paddle(1)
        import numpy as np
        import paddle

        from ernie5.parallel.data_parallel import join
        from ernie5.parallel.pieces import WHOLE, Catalogue, Cut, gather_to_first
        from ernie5.parallel.runs import Run

        ranks = join()
        degree = count if layout == "cut" else 2
        tensors, cuts = {}, {}
        for name, (_, _, axis) in TENSORS.items():
            if axis == "last" and ranks.rank != count - 1:
                continue
            array = whole(name)
            if layout != "same" and isinstance(axis, int):
                cuts[name] = Cut(axis, ranks.rank % degree, degree)
            if layout == "runs" and axis != "last":
                cut = cuts.get(name, WHOLE)
                piece = cut.piece(array)
                ends = (0, piece.size // 3 + 1, piece.size)[ranks.rank // degree :]
                cuts[name] = cut._replace(run=Run(piece.shape, *ends[:2]))
            if name in cuts:
                array = cuts[name].piece(array)
            tensors[name] = paddle.to_tensor(array)  # of uint16 it makes bfloat16
        collected = Catalogue(ranks, tensors, cuts, to_first=False).collect(tensors, copied=True)
        on_first = gather_to_first(ranks, tensors, cuts)
        if on_first is not None:
            np.savez(folder / "first.npz", **on_first)
        for tensor in tensors.values():
            tensor.set_value(paddle.zeros_like(tensor))
        np.savez(folder / f"collected_{ranks.rank}.npz", **collected)
        said = {"is_first": ranks.is_first, "got": on_first is not None, "waiting": most_waiting(ranks)}
        (folder / f"said_{ranks.rank}.json").write_text(json.dumps(said))


def most_waiting(ranks) -> int:
    """Messages that lie with the first process, which is slow, while it collects many tensors one by one."""
    import paddle

    from ernie5.parallel import gloo
    from ernie5.parallel.pieces import Catalogue, Cut

    many = {str(i): paddle.full([4, 2], float(i)) for i in range(MANY)}
    catalogue, most = Catalogue(ranks, many, {name: Cut(1, ranks.rank, ranks.size) for name in many}, to_first=True), 0
    for name in many:
        if ranks.is_first:
            time.sleep(0.01)
        most = max(most, sum(inbox.qsize() for inbox in list(gloo._peers._inboxes.values())))
        catalogue.collect(many, [name])
    return most


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
