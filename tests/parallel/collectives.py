"""Run as a program on several processes: what the processes exchange, written down by each for a test to compare.

python collectives.py COUNT FOLDER
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ernie5.parallel.processes import other_processes

# (shape, the processes on which it has a gradient)
PARAMETERS = (((3, 4), (0, 1, 2)), ((5,), (1,)), ((2, 2), ()), ((7,), (0,)), ((11,), (0, 1, 2)))
BUCKET = 13  # elements: the first parameter fills one bucket, the last two need another


def values_of(rank: int) -> list:
    """Each parameter's gradient on a process, or None."""
    import numpy as np

    rng = np.random.default_rng(rank)
    drawn = [rng.standard_normal(shape).astype(np.float32) for shape, _ in PARAMETERS]
    return [value if rank in ranks else None for value, (_, ranks) in zip(drawn, PARAMETERS, strict=True)]


def main(count: int, folder: Path) -> None:
    with other_processes(count, folder):
        from ernie5.ops.runtime import start_paddle

        start_paddle(1)
        import numpy as np
        import paddle

        from ernie5.parallel import replicas
        from ernie5.parallel.data_parallel import join
        from ernie5.parallel.mesh import Mesh

        replicas.BUCKET = BUCKET
        ranks, mesh = join(), Mesh(data=count)
        values = values_of(ranks.rank)
        parameters = [paddle.create_parameter(shape, "float32") for shape, _ in PARAMETERS]
        for parameter, value in zip(parameters, values, strict=True):
            if value is not None:
                (parameter * paddle.to_tensor(value)).sum().backward()
        frozen = paddle.create_parameter([2], "float32")
        frozen.stop_gradient = True
        named = {f"parameter{i}": parameter for i, parameter in enumerate([*parameters[:2], frozen, *parameters[2:]])}
        replicas.Replicas(named, mesh, ranks.rank, mesh.stage).sum_gradients()
        found = {f"gradient{i}": p.grad.numpy() for i, p in enumerate(parameters) if p.grad is not None}
        found["float64"] = ranks.summed(np.full(3, 0.1 + ranks.rank))
        found["int64"] = ranks.summed(np.array([2**53 + ranks.rank]))
        found["from_first"] = ranks.from_first(np.arange(4) if ranks.is_first else None)
        worked = []
        for _ in range(2):
            ranks.on_first(lambda: worked.append(ranks.rank))
        np.savez(folder / f"rank_{ranks.rank}.npz", worked=np.array(worked), size=ranks.size, **found)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
