"""SwiGLU's gate: compiled, its definition, and torch's.

python -m custom_ops.swiglu.bench_swiglu --peer-python PATH
"""

from pathlib import Path

from custom_ops.common import bench
from ernie5.ops import runtime

HERE = Path(__file__).parent
CASES = [{"rows": 2048, "width": 256}, {"rows": 2048, "width": 1024}]

CALLS = 10  # of a job in a row, as its input lies in the cache in a model, too


def main() -> None:
    options = bench.arguments(__doc__)
    runtime.start_paddle(options.threads)
    import paddle

    from ernie5.config.schema import OpsConfig
    from ernie5.ops import backend
    from ernie5.ops.swiglu import swiglu

    runtime.configure(OpsConfig())
    for case in CASES:
        count = case["rows"] * case["width"]
        gate, up, grad = (paddle.randn([case["rows"], case["width"]]) for _ in range(3))
        gate.stop_gradient = up.stop_gradient = False

        def forward(mode, inputs=(gate, up)):
            with backend.using(mode), paddle.no_grad():
                swiglu(*inputs)

        def both(mode, inputs=(gate, up), grad=grad):
            with backend.using(mode):
                paddle.grad(swiglu(*inputs), inputs, grad)

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
        work = {name: CALLS * count * 4e-9 * (3 if "forward" in name else (3 + 5)) for name in times}
        print(f"\n{case['rows']} x {case['width']}, float32, {CALLS} calls, {options.threads} thread(s)\n")
        for kind in ("forward", "both"):
            chosen = {name: seconds for name, seconds in times.items() if name.endswith(kind)}
            print(bench.table(chosen, f"native {kind}", work, "GB/s"), "\n")
        if peer:
            peer.close()


if __name__ == "__main__":
    main()
