"""Run as a program: the groups of fleet's topology, written down by each process.

python fleet_groups.py COUNT DEGREES FOLDER, where DEGREES is JSON
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ernie5.parallel.processes import other_processes


def main(count: int, degrees: dict[str, int], folder: Path) -> None:
    with other_processes(count, folder):
        from ernie5.ops.runtime import start_paddle

        start_paddle(1)
        import paddle

        from ernie5.config.schema import ParallelConfig
        from ernie5.parallel.data_parallel import join
        from ernie5.parallel.mesh import make_mesh
        from ernie5.parallel.topology import expert_group, join_fleet

        ranks = join()
        mesh = make_mesh(count, ParallelConfig(**degrees))
        hcg = join_fleet(mesh)
        groups = {
            "tensor": hcg.get_model_parallel_group(),
            "pipeline": hcg.get_pipe_parallel_group(),
            "rows": hcg.get_sharding_parallel_group(),
        }
        if mesh.expert > 1:
            groups["expert"] = expert_group(mesh, ranks.rank, hcg)
        found = {name: list(group.ranks) for name, group in groups.items()} | {"stage": hcg.get_stage_id()}
        (folder / f"groups_{ranks.rank}.json").write_text(json.dumps(found))
        paddle.distributed.barrier()


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
