"""RMS norm: compiled, its definition, and torch's. python -m custom_ops.rms_norm.bench_rms_norm --peer-python PATH"""

from pathlib import Path

from custom_ops.common import bench
from ernie5.ops import runtime

HERE = Path(__file__).parent
CASES = [{"rows": 2048, "hidden": 256}, {"rows": 4096, "hidden": 1024}]


def main() -> None:
    options = bench.arguments(__doc__)
    runtime.start_paddle(options.threads)
    import paddle

    from ernie5.config.schema import OpsConfig
    from ernie5.ops import backend
    from ernie5.ops.rms_norm import rms_norm

    runtime.configure(OpsConfig())
    for case in CASES:
        rows, hidden = case["rows"], case["hidden"]
        x, grad, weight = paddle.randn([rows, hidden]), paddle.randn([rows, hidden]), paddle.ones([hidden])
        x.stop_gradient = weight.stop_gradient = False

        def forward(mode, x=x, weight=weight):
            with backend.using(mode), paddle.no_grad():
                rms_norm(x, weight, 1e-5)

        def both(mode, x=x, weight=weight, grad=grad):
            with backend.using(mode):
                rms_norm(x, weight, 1e-5).backward(grad)
            x.clear_grad()
            weight.clear_grad()

        jobs = {
            f"{mode} {name}": lambda run=run, mode=mode: run(mode)
            for name, run in (("forward", forward), ("both", both))
            for mode in ("native", "reference")
        }
        peer = (
            bench.Peer(options.peer_python, HERE / "peer_torch.py", case, options.threads)
            if options.peer_python
            else None
        )
        times = bench.interleaved(jobs, peer, options.rounds, options.threads)
        gigabytes = rows * hidden * 4 / 1e9
        # Read x, write y; then read x and the gradient, write that of x.
        work = {name: gigabytes * (2 if "forward" in name else 5) for name in times}
        print(f"\n{rows} x {hidden}, float32, {options.threads} thread(s)\n")
        for kind in ("forward", "both"):
            chosen = {name: seconds for name, seconds in times.items() if name.endswith(kind)}
            print(bench.table(chosen, f"native {kind}", work, "GB/s"), "\n")


if __name__ == "__main__":
    main()
