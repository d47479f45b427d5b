"""The routed experts of a layer, moves included. python -m custom_ops.expert_ffn.bench_expert_ffn --peer-python PATH"""

from pathlib import Path

from custom_ops.common import bench
from ernie5.ops import runtime

HERE = Path(__file__).parent
SHAPE = {"hidden": 256, "ffn": 128, "experts": 64, "top_k": 4}
CASES = [{"tokens": tokens, "calls": calls, **SHAPE} for tokens, calls in ((2048, 1), (64, 10), (8, 20), (1, 50))]


def main() -> None:
    options = bench.arguments(__doc__)
    runtime.start_paddle(options.threads)
    import paddle

    from ernie5.config.schema import OpsConfig
    from ernie5.ops import backend
    from ernie5.ops.moe import moe_ffn

    runtime.configure(OpsConfig())
    for case in CASES:
        tokens, calls, hidden, ffn, experts, top_k = (
            case[name] for name in ("tokens", "calls", "hidden", "ffn", "experts", "top_k")
        )
        states, grad, weights = (paddle.randn([tokens, width]) for width in (hidden, hidden, top_k))
        ids = paddle.topk(paddle.rand([tokens, experts]), top_k)[1].detach()
        gate_up, down = paddle.randn([experts, hidden, 2 * ffn]) * 0.05, paddle.randn([experts, ffn, hidden]) * 0.05
        given = [states, weights, gate_up, down]
        for tensor in given:
            tensor.stop_gradient = False

        def forward(mode, given=given, ids=ids, calls=calls):
            with backend.using(mode), paddle.no_grad():
                for _ in range(calls):
                    moe_ffn(given[0], ids, *given[1:])

        def both(mode, given=given, ids=ids, grad=grad):
            with backend.using(mode):
                paddle.grad([moe_ffn(given[0], ids, *given[1:])], given, [grad])

        kinds = {"forward": forward, "both": both} if tokens > 64 else {"forward": forward}
        jobs = {
            f"{mode} {name}": lambda run=run, mode=mode: run(mode)
            for name, run in kinds.items()
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
        gigaflops = 2 * tokens * top_k * 3 * hidden * ffn / 1e9 * calls
        work = {name: gigaflops * (3 if name.endswith("both") else 1) for name in times}
        print(f"\n{tokens} tokens x {hidden}, ffn {ffn}, {experts} experts, top {top_k}, {calls} call(s) a row\n")
        for kind in kinds:
            chosen = {name: seconds for name, seconds in times.items() if name.endswith(kind)}
            print(bench.table(chosen, f"native {kind}", work, "GFLOP/s"), "\n")


if __name__ == "__main__":
    main()
