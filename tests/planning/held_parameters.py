"""Run as a program: how many parameters each process of a layout has of a model with vision and audio.

python held_parameters.py COUNT DEGREES FOLDER, where DEGREES is JSON
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ernie5.parallel.processes import other_processes

MODEL, SEQ = Path(__file__).parents[2] / "configs/model/digits.yaml", 256


def main(count: int, degrees: dict[str, int], folder: Path) -> None:
    with other_processes(count, folder):
        from ernie5.ops.runtime import start_paddle

        start_paddle(1)
        import paddle

        from ernie5.config.load import load_model_config
        from ernie5.config.schema import ParallelConfig
        from ernie5.model.ernie5 import Ernie5ForCausalLM
        from ernie5.parallel.data_parallel import join
        from ernie5.parallel.mesh import make_mesh
        from ernie5.parallel.parallelize import ParallelModel
        from ernie5.planning.stages import layer_counts

        config, ranks = load_model_config(MODEL), join()
        mesh = make_mesh(count, ParallelConfig(**degrees))
        counts = layer_counts(config, mesh.pipeline, SEQ)
        parallel = ParallelModel(Ernie5ForCausalLM(config), ranks, mesh, counts)
        found = {
            "parameters": sum(one.size for one in parallel.model.parameters()),
            "frozen": sum(one.size for one in parallel.model.parameters() if one.stop_gradient),
            "owned": sum(one.size for one in parallel.stepped.values()),
            "stage": mesh.place(ranks.rank).pipeline,
        }
        (folder / f"held_{ranks.rank}.json").write_text(json.dumps(found))
        paddle.distributed.barrier()


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
