"""Run as a program: what each of several processes sends for a layer of experts and for summed gradients.

python sent_bytes.py COUNT FOLDER
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ernie5.parallel.processes import other_processes

HIDDEN, WIDTH, EXPERTS, TOP_K, TOKENS, PARAMETERS = 48, 8, 16, 3, 512, 1 << 17


def main(count: int, folder: Path) -> None:
    with other_processes(count, folder):
        from ernie5.ops.runtime import start_paddle

        start_paddle(1)
        import numpy as np
        import paddle
        import paddle.distributed as dist

        from ernie5.config.schema import MoEConfig
        from ernie5.layers.experts import Experts
        from ernie5.ops.router import Routing
        from ernie5.parallel import gloo
        from ernie5.parallel.expert_dispatcher import ExpertParallelDispatcher

        gloo.install()
        dist.init_parallel_env()
        rank, group = dist.get_rank(), dist.new_group(list(range(count)))
        config = MoEConfig(num_experts=EXPERTS // count, num_experts_per_tok=TOP_K, moe_intermediate_size=WIDTH)
        experts = Experts(HIDDEN, config, 0.1)
        rng = np.random.default_rng(rank)
        ids = paddle.to_tensor(np.argsort(rng.random([TOKENS, EXPERTS]), -1)[:, :TOP_K])
        weights = paddle.to_tensor(rng.random([TOKENS, TOP_K]).astype("float32"))
        states = paddle.to_tensor(rng.random([TOKENS, HIDDEN]).astype("float32"))
        states.stop_gradient = weights.stop_gradient = False
        sent = [group.process_group.bytes_sent]
        ExpertParallelDispatcher(EXPERTS, group).run(states, Routing(ids, weights, None), experts).sum().backward()
        sent.append(group.process_group.bytes_sent)
        dist.all_reduce(paddle.ones([PARAMETERS]), group=group)
        sent.append(group.process_group.bytes_sent)
        np.save(folder / f"rank_{rank}.npy", np.diff(sent))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
