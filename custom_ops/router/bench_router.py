"""The router: compiled, its definition, and torch's. python -m custom_ops.router.bench_router --peer-python PATH"""

from pathlib import Path

from custom_ops.common import bench
from ernie5.ops import runtime

HERE = Path(__file__).parent
CASES = [{"tokens": 2048, "experts": 64, "top_k": 4}, {"tokens": 2048, "experts": 384, "top_k": 8}]


def main() -> None:
    options = bench.arguments(__doc__)
    runtime.start_paddle(options.threads)
    import paddle

    from ernie5.config.schema import OpsConfig
    from ernie5.ops import backend
    from ernie5.ops.router import route

    runtime.configure(OpsConfig())
    for case in CASES:
        tokens, experts, top_k = case["tokens"], case["experts"], case["top_k"]
        logits, grad = paddle.randn([tokens, experts]), paddle.randn([tokens, top_k])
        bias, mask = paddle.randn([experts]) / 100, paddle.zeros([experts])
        logits.stop_gradient = False

        def forward(mode, logits=logits, bias=bias, mask=mask, top_k=top_k):
            with backend.using(mode), paddle.no_grad():
                route(logits, bias, mask, top_k, "softmax")

        def both(mode, logits=logits, bias=bias, mask=mask, top_k=top_k, grad=grad):
            with backend.using(mode):
                route(logits, bias, mask, top_k, "softmax").topk_weights.backward(grad)
            logits.clear_grad()

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
        if peer:
            peer.close()
        # Read the logits; then read them again and write their gradient. What a choice takes is small beside them.
        gigabytes = tokens * experts * 4 / 1e9
        work = {name: gigabytes * (1 if "forward" in name else 3) for name in times}
        print(f"\n{tokens} tokens, {experts} experts, top {top_k}, softmax, float32, {options.threads} thread(s)\n")
        for kind in ("forward", "both"):
            chosen = {name: seconds for name, seconds in times.items() if name.endswith(kind)}
            print(bench.table(chosen, f"native {kind}", work, "GB/s"), "\n")


if __name__ == "__main__":
    main()
