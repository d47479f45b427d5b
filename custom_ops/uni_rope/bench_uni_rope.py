"""Uni-RoPE's turn: compiled, its definition, and torch's.

python -m custom_ops.uni_rope.bench_uni_rope --peer-python PATH
"""

from pathlib import Path

from custom_ops.common import bench
from ernie5.ops import runtime

HERE = Path(__file__).parent
CASES = [{"batch": 4, "seq": 512, "heads": 8, "head_dim": 64}, {"batch": 1, "seq": 4096, "heads": 16, "head_dim": 128}]

CALLS = 10  # of a job in a row, as its input lies in the cache in a model, too


def main() -> None:
    options = bench.arguments(__doc__)
    runtime.start_paddle(options.threads)
    import paddle

    from ernie5.config.schema import OpsConfig
    from ernie5.ops import backend
    from ernie5.ops.uni_rope import uni_rope

    runtime.configure(OpsConfig())
    for case in CASES:
        batch, seq, heads, head_dim = case.values()
        count = batch * seq * heads * head_dim
        states, grad = paddle.randn([batch, seq, heads, head_dim]), paddle.randn([batch, seq, heads, head_dim])
        angles = paddle.rand([batch, seq, 1, head_dim // 2]) * 100
        cos, sin = angles.cos(), angles.sin()
        states.stop_gradient = False

        def forward(mode, inputs=(states, cos, sin)):
            with backend.using(mode), paddle.no_grad():
                uni_rope(*inputs)

        def both(mode, inputs=(states, cos, sin), grad=grad):
            with backend.using(mode):
                paddle.grad(uni_rope(*inputs), [inputs[0]], grad)

        jobs = {
            f"{mode} {name}": lambda run=run, mode=mode: [run(mode) for _ in range(CALLS)]
            for name, run in (("forward", forward), ("both", both))
            for mode in ("native", "reference")
        }
        peer = (
            bench.Peer(options.peer_python, HERE / "peer_torch.py", case | {"calls": CALLS}, options.threads)
            if options.peer_python
            else None
        )
        times = bench.interleaved(jobs, peer, options.rounds, options.threads)
        work = {name: CALLS * count * 4e-9 * (2 if "forward" in name else 4) for name in times}
        print(f"\n{batch} x {seq} x {heads} x {head_dim}, float32, {CALLS} calls, {options.threads} thread(s)\n")
        for kind in ("forward", "both"):
            chosen = {name: seconds for name, seconds in times.items() if name.endswith(kind)}
            print(bench.table(chosen, f"native {kind}", work, "GB/s"), "\n")
        if peer:
            peer.close()


if __name__ == "__main__":
    main()
