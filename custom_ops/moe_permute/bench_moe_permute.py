"""The moves to the experts and back: compiled, their definitions, plain Paddle's, torch's, and a copy of as many bytes.

python -m custom_ops.moe_permute.bench_moe_permute --peer-python PATH
"""

from pathlib import Path

from custom_ops.common import bench
from ernie5.ops import runtime

HERE = Path(__file__).parent
CASES = [
    {"tokens": tokens, "hidden": hidden, "experts": 64, "top_k": top_k}
    for tokens, hidden, top_k in ((2048, 256, 4), (4096, 256, 8), (4096, 1024, 8))
]


def main() -> None:
    options = bench.arguments(__doc__)
    runtime.start_paddle(options.threads)
    import numpy as np
    import paddle

    from ernie5.config.schema import OpsConfig
    from ernie5.ops import backend
    from ernie5.ops.moe import moe_permute, moe_unpermute, sort_by_expert

    class Seeded(paddle.autograd.PyLayer):
        """A scalar whose gradient by the output is the given one: `paddle.grad` copies those that it is given."""

        @staticmethod
        def forward(ctx, output, cotangent):
            ctx.cotangent = cotangent
            return paddle.zeros([])

        @staticmethod
        def backward(ctx, grad):
            return ctx.cotangent()

    runtime.configure(OpsConfig())
    for case in CASES:
        tokens, hidden, experts, top_k = (case[name] for name in ("tokens", "hidden", "experts", "top_k"))
        states, rows = paddle.randn([tokens, hidden]), paddle.randn([tokens * top_k, hidden])
        grad_rows, grad, weights = rows.clone(), paddle.randn([tokens, hidden]), paddle.rand([tokens, top_k])
        ids = paddle.topk(paddle.rand([tokens, experts]), top_k)[1].detach()
        for tensor in (states, rows, weights):
            tensor.stop_gradient = False
        permutation = sort_by_expert(ids, experts)
        source, target = np.ones([2, tokens * top_k, hidden], np.float32)

        def sort(ids=ids, experts=experts):
            sort_by_expert(ids, experts)

        def permute(states=states, permutation=permutation):
            return moe_permute(states, permutation)

        def unpermute(rows=rows, permutation=permutation, weights=weights):
            return moe_unpermute(rows, permutation, weights)

        def plain_permute(states=states, permutation=permutation):
            return paddle.index_select(states, permutation.token_ids)

        def plain_unpermute(rows=rows, permutation=permutation, weights=weights, hidden=hidden):
            parts = paddle.gather(rows, permutation.row_ids.flatten()).reshape([*weights.shape, hidden])
            return (parts * weights.unsqueeze(-1)).sum(1)

        def run(mode, forward, given=None, cotangent=None):
            with backend.using(mode):
                if given is None:
                    with paddle.no_grad():
                        forward()
                else:
                    paddle.grad([Seeded.apply(forward(), lambda: cotangent)], given)

        ways = {
            "native": ("native", permute, unpermute),
            "reference": ("reference", permute, unpermute),
            "plain Paddle": ("reference", plain_permute, plain_unpermute),
        }
        jobs = {f"{mode} sort": lambda mode=mode, sort=sort: run(mode, sort) for mode in ("native", "reference")}
        for name, (mode, there, back) in ways.items():
            jobs |= {
                f"{name} permute": lambda mode=mode, move=there: run(mode, move),
                f"{name} permute both": lambda mode=mode, move=there, given=states, grad=grad_rows: run(
                    mode, move, [given], grad
                ),
                f"{name} unpermute": lambda mode=mode, move=back: run(mode, move),
                f"{name} unpermute both": lambda mode=mode, move=back, given=(rows, weights), grad=grad: run(
                    mode, move, list(given), grad
                ),
            }
        for kind in ("permute", "unpermute"):
            jobs[f"copy of the rows, beside {kind}"] = lambda source=source, target=target: np.copyto(target, source)
        peer = (
            bench.Peer(options.peer_python, HERE / "peer_torch.py", case, options.threads)
            if options.peer_python
            else None
        )
        times = bench.interleaved(jobs, peer, options.rounds, options.threads)
        if peer:
            peer.close()
        print(f"\n{tokens} tokens x {hidden}, {experts} experts, top {top_k}, float32, {options.threads} thread(s)\n")
        few, many = tokens * hidden * 4 / 1e9, tokens * top_k * hidden * 4 / 1e9
        # Bytes that a kernel must read and write: rows in token order once, in expert order once; the weights' gradient
        # reads the rows again.
        moved = {"sort": 0.0, "permute": few + many, "permute both": 2 * (few + many), "unpermute": few + many}
        moved["unpermute both"] = few + many + few + 2 * many
        for kind, gigabytes in moved.items():
            chosen = {name: seconds for name, seconds in times.items() if name.endswith(f" {kind}")}
            work = {name: 2 * many if name.startswith("copy") else gigabytes for name in chosen}
            print(bench.table(chosen, f"native {kind}", work if gigabytes else {}, "GB/s"), "\n")


if __name__ == "__main__":
    main()
