"""An optimizer step: compiled, Paddle's, and torch's. python -m custom_ops.adamw.bench_adamw --peer-python PATH"""

from pathlib import Path

from custom_ops.common import bench
from ernie5.ops import runtime

HERE = Path(__file__).parent
CASES = [{"tensors": 800, "size": 51_250}, {"tensors": 4, "size": 10_250_000}]  # 41 million parameters


def main() -> None:
    options = bench.arguments(__doc__)
    runtime.start_paddle(options.threads)
    import paddle

    from ernie5.config.schema import OpsConfig
    from ernie5.ops import backend
    from ernie5.ops.adamw import AdamW
    from ernie5.train.optimizer import clip_grad_norm

    runtime.configure(OpsConfig())
    for case in CASES:
        parameters = [paddle.create_parameter([case["size"]], "float32") for _ in range(case["tensors"])]
        for parameter in parameters:
            parameter.grad = paddle.randn([case["size"]])
        optimizer = AdamW(1e-3, parameters=parameters, weight_decay=0.1, apply_decay_param_fun=lambda _: True)

        def step(mode, optimizer=optimizer):
            with backend.using(mode):
                optimizer.step()

        def clipped(mode, optimizer=optimizer, parameters=parameters):
            with backend.using(mode):
                clip_grad_norm(parameters, 1.0)
                optimizer.step()

        jobs = {
            f"{mode} {name}": lambda run=run, mode=mode: run(mode)
            for name, run in (("step", step), ("clipped step", clipped))
            for mode in ("native", "reference")
        }
        peer = (
            bench.Peer(options.peer_python, HERE / "peer_torch.py", case, options.threads)
            if options.peer_python
            else None
        )
        times = bench.interleaved(jobs, peer, options.rounds, options.threads)
        count = case["tensors"] * case["size"]
        # Parameter and moments are read and written, the gradient is read; the norm reads it once more.
        work = {name: count * 4e-9 * (8 if "clipped" in name else 7) for name in times}
        print(f"\n{case['tensors']} tensors of {case['size']} float32, {options.threads} thread(s)\n")
        for kind in ("clipped step", "step"):
            chosen = {
                name: times[name] for name in times if name.endswith(kind) and ("clipped" in name) == ("c" in kind)
            }
            print(bench.table(chosen, f"native {kind}", work, "GB/s"), "\n")
        if peer:
            peer.close()


if __name__ == "__main__":
    main()
