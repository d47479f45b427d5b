"""The loss of a head: compiled, its definition, and torch's.

python -m custom_ops.cross_entropy.bench_cross_entropy --peer-python PATH
"""

from pathlib import Path

from custom_ops.common import bench
from ernie5.ops import runtime

HERE = Path(__file__).parent
IGNORE_INDEX = -100
CASES = [  # `kept`: rows that have a label
    {"rows": 2048, "hidden": 256, "vocab": 8192, "kept": 2048},
    {"rows": 2048, "hidden": 256, "vocab": 8192, "kept": 512},
    {"rows": 1024, "hidden": 512, "vocab": 32768, "kept": 1024},
]


def main() -> None:
    options = bench.arguments(__doc__)
    runtime.start_paddle(options.threads)
    import paddle

    from ernie5.config.schema import OpsConfig
    from ernie5.ops import backend
    from ernie5.ops.cross_entropy import linear_cross_entropy

    runtime.configure(OpsConfig())
    for case in CASES:
        rows, hidden, vocab, kept = (case[name] for name in ("rows", "hidden", "vocab", "kept"))
        x, weight = paddle.randn([rows, hidden]), (paddle.randn([vocab, hidden]) * 0.05).detach()
        labels, row_weights = paddle.randint(0, vocab, [rows]), paddle.rand([rows])
        labels[: rows - kept] = IGNORE_INDEX
        x.stop_gradient = weight.stop_gradient = False

        def forward(mode, inputs=(x, weight, labels, row_weights)):
            with backend.using(mode), paddle.no_grad():
                linear_cross_entropy(*inputs, IGNORE_INDEX)

        def both(mode, inputs=(x, weight, labels, row_weights)):
            with backend.using(mode):
                paddle.grad(linear_cross_entropy(*inputs, IGNORE_INDEX), inputs[:2])

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
        operations = 2e-9 * kept * hidden * vocab
        work = {name: operations * (1 if "forward" in name else 3) for name in times}
        print(f"\n{rows} rows, {kept} with a label, hidden {hidden}, vocabulary {vocab}, {options.threads} thread(s)\n")
        for kind in ("forward", "both"):
            chosen = {name: seconds for name, seconds in times.items() if name.endswith(kind)}
            print(bench.table(chosen, f"native {kind}", work, "GFLOP/s"), "\n")
        if peer:
            peer.close()


if __name__ == "__main__":
    main()
