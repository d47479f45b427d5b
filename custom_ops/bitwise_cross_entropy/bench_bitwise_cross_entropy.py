"""The loss of bits: compiled, its definition, and torch's.

python -m custom_ops.bitwise_cross_entropy.bench_bitwise_cross_entropy --peer-python PATH
"""

from pathlib import Path

from custom_ops.common import bench
from ernie5.ops import runtime

HERE = Path(__file__).parent
CASES = [{"rows": 4096, "bits": 16}, {"rows": 16384, "bits": 32}]

CALLS = 10  # of a job in a row, as its input lies in the cache in a model, too


def main() -> None:
    options = bench.arguments(__doc__)
    runtime.start_paddle(options.threads)
    import paddle

    from ernie5.config.schema import OpsConfig
    from ernie5.ops import backend
    from ernie5.ops.bitwise_cross_entropy import bitwise_cross_entropy

    runtime.configure(OpsConfig())
    for case in CASES:
        count = case["rows"] * case["bits"]
        logits, grad = paddle.randn([case["rows"], case["bits"]]), paddle.ones([])
        targets = paddle.randint(0, 2, [case["rows"], case["bits"]]).astype("float32")
        row_weights = paddle.rand([case["rows"]])
        logits.stop_gradient = False

        def forward(mode, inputs=(logits, targets, row_weights)):
            with backend.using(mode), paddle.no_grad():
                bitwise_cross_entropy(*inputs)

        def both(mode, inputs=(logits, targets, row_weights), grad=grad):
            with backend.using(mode):
                paddle.grad(bitwise_cross_entropy(*inputs), [inputs[0]], grad)

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
        work = {name: CALLS * count * 4e-9 * (2 if "forward" in name else 3) for name in times}
        print(f"\n{case['rows']} rows of {case['bits']} bits, float32, {CALLS} calls, {options.threads} thread(s)\n")
        for kind in ("forward", "both"):
            chosen = {name: seconds for name, seconds in times.items() if name.endswith(kind)}
            print(bench.table(chosen, f"native {kind}", work, "GB/s"), "\n")
        if peer:
            peer.close()


if __name__ == "__main__":
    main()
