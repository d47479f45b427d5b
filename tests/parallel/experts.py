"""Run as a program: a layer of experts spread over processes, with its gradients, written down by each.

python experts.py COUNT DISPATCHER FOLDER
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ernie5.parallel.processes import other_processes

HIDDEN, WIDTH, EXPERTS = 12, 8, 16
CASES = {  # tokens of each rank, choices a token, how they choose
    "even": ([5, 9, 3, 7, 6, 1, 2, 4], 3, "any"),
    "one choice": ([4] * 8, 1, "any"),
    "no tokens on some": ([0, 6, 0, 5, 1, 0, 0, 3], 2, "any"),
    "all to the same": ([6] * 8, 4, "first"),
    "all of them": ([3] * 8, 16, "any"),
}


def given(name: str, rank: int):
    """hidden states, ids, weights and the gradient of the output of a rank, NumPy."""
    import numpy as np

    tokens, top_k, kind = CASES[name]
    rng = np.random.default_rng([len(name), rank])
    count = tokens[rank]
    order = rng.random([count, EXPERTS]) + (np.arange(EXPERTS) * (kind == "first"))
    ids = np.argsort(order, -1)[:, :top_k]
    states, grad = (rng.normal(size=[count, HIDDEN]).astype("float32") for _ in range(2))
    return states, ids, rng.uniform(0.1, 1, [count, top_k]).astype("float32"), grad


def weights():
    import numpy as np

    rng = np.random.default_rng(3)
    shapes = [EXPERTS, HIDDEN, 2 * WIDTH], [EXPERTS, WIDTH, HIDDEN]
    return [rng.normal(scale=0.3, size=shape).astype("float32") for shape in shapes]


def main(count: int, kind: str, folder: Path) -> None:
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
        from ernie5.parallel.deep_ep import DeepEPDispatcher
        from ernie5.parallel.expert_dispatcher import ExpertParallelDispatcher
        from tests.parallel.deep_ep_buffer import Buffer

        gloo.install()
        dist.init_parallel_env()
        rank, group = dist.get_rank(), dist.new_group(list(range(count)))
        local = EXPERTS // count
        experts = Experts(HIDDEN, MoEConfig(num_experts=local, num_experts_per_tok=1, moe_intermediate_size=WIDTH), 0.1)
        for parameter, value in zip((experts.gate_up_proj, experts.down_proj), weights(), strict=True):
            parameter.set_value(value[rank * local : (rank + 1) * local])
        dispatcher, found = ExpertParallelDispatcher(EXPERTS, group), {}
        if kind == "deep_ep":
            dispatcher = DeepEPDispatcher(EXPERTS, group, Buffer)
        for name in CASES:
            states, ids, chosen, grad = map(paddle.to_tensor, given(name, rank))
            states.stop_gradient = chosen.stop_gradient = False
            before = group.process_group.bytes_sent
            output = dispatcher.run(states, Routing(ids, chosen, None), experts)
            found[f"{name}/bytes"] = group.process_group.bytes_sent - before
            output.backward(grad)
            grads = states.grad, chosen.grad, experts.gate_up_proj.grad, experts.down_proj.grad
            results = dict(zip(("states", "weights", "gate_up", "down"), grads, strict=True)) | {"output": output}
            found |= {f"{name}/{key}": value.numpy() for key, value in results.items()}
            experts.clear_gradients()
        np.savez(folder / f"rank_{rank}.npz", **found)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
