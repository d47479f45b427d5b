"""A linear map: products in bfloat16, Paddle's and torch's in float32, and torch's in bfloat16.

python -m custom_ops.linear.bench_linear --peer-python PATH
"""

from pathlib import Path

from custom_ops.common import bench
from ernie5.ops import runtime

CASES = [
    {"rows": 2048, "in": 256, "out": 256},
    {"rows": 128, "in": 256, "out": 256},
    {"rows": 2048, "in": 256, "out": 8192},
    {"rows": 1024, "in": 1024, "out": 1024},
]
CALLS = 5  # of a job in a row


def main() -> None:
    options = bench.arguments(__doc__)
    runtime.start_paddle(options.threads)
    from ernie5.config.schema import OpsConfig

    runtime.configure(OpsConfig())
    for case in CASES:
        peer = None
        if options.peer_python:
            script = Path(__file__).with_name("peer_torch.py")
            peer = bench.Peer(options.peer_python, script, case | {"calls": CALLS}, options.threads)
        times = bench.interleaved(jobs(case), peer, options.rounds, options.threads)
        if peer:
            peer.close()
        print(f"\n{case['rows']} x {case['in']} to {case['out']}, {CALLS} calls, {options.threads} thread(s)\n")
        work = 2e-9 * case["rows"] * case["in"] * case["out"] * CALLS
        for kind, products in (("forward", 1), ("both", 3)):
            chosen = {name: seconds for name, seconds in times.items() if name.endswith(kind)}
            print(bench.table(chosen, f"bfloat16 {kind}", dict.fromkeys(chosen, products * work), "GFLOP/s"), "\n")


def jobs(case: dict[str, int]) -> dict:
    import paddle

    from ernie5.ops import backend
    from ernie5.ops.linear import linear

    x, weight = paddle.randn([case["rows"], case["in"]]), paddle.randn([case["in"], case["out"]])
    grad = paddle.randn([case["rows"], case["out"]])
    x.stop_gradient = weight.stop_gradient = False

    def forward(reduced):
        with backend.using("native", bf16_products=reduced), paddle.no_grad():
            for _ in range(CALLS):
                linear(x, weight, None)

    def both(reduced):
        with backend.using("native", bf16_products=reduced):
            for _ in range(CALLS):
                paddle.grad(linear(x, weight, None), (x, weight), grad)

    return {
        f"{name} {kind}": lambda run=run, reduced=reduced: run(reduced)
        for kind, run in (("forward", forward), ("both", both))
        for name, reduced in (("bfloat16", True), ("Paddle float32", False))
    }


if __name__ == "__main__":
    main()
