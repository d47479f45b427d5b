"""Attention: compiled, its definition by tiles, stock Paddle's and torch's scaled_dot_product_attention.

python -m custom_ops.flashmask_attention.bench_flashmask_attention --peer-python PATH
"""

from pathlib import Path

from custom_ops.common import bench
from ernie5.ops import runtime

HERE = Path(__file__).parent
HEADS = {"heads": 8, "kv_heads": 2}
CASES = [
    {"batch": 4, "queries": 512, "keys": 512, "head_dim": 32, "mask": "causal"},
    {"batch": 1, "queries": 2048, "keys": 2048, "head_dim": 32, "mask": "causal"},
    {"batch": 1, "queries": 2048, "keys": 2048, "head_dim": 64, "mask": "causal"},
    {"batch": 1, "queries": 2048, "keys": 2048, "head_dim": 128, "mask": "causal"},
    {"batch": 1, "queries": 2048, "keys": 2048, "head_dim": 32, "mask": "8 documents"},
    {"batch": 1, "queries": 8192, "keys": 8192, "head_dim": 32, "mask": "32 documents"},
    {"batch": 1, "queries": 1, "keys": 192, "head_dim": 32, "mask": "none"},
    {"batch": 8, "queries": 1, "keys": 192, "head_dim": 32, "mask": "none"},
    {"batch": 1, "queries": 1, "keys": 4096, "head_dim": 128, "mask": "none"},
    {"batch": 8, "queries": 1, "keys": 1024, "head_dim": 64, "mask": "none"},
]


def main() -> None:
    options = bench.arguments(__doc__)
    runtime.start_paddle(options.threads)
    from ernie5.config.schema import OpsConfig

    runtime.configure(OpsConfig())
    for case in CASES:
        case = HEADS | {"repeats": 20 if case["queries"] == 1 else 1} | case  # decoding: a run of calls is timed
        peer = None
        if options.peer_python:
            peer = bench.Peer(options.peer_python, HERE / "peer_torch.py", case, options.threads)
        times = bench.interleaved(jobs(case), peer, options.rounds, options.threads)
        if peer:
            peer.close()
        print(f"\n{describe(case)}, float32, {options.threads} thread(s)\n")
        for kind in ("forward", "both"):
            chosen = {name: seconds for name, seconds in times.items() if name.endswith(kind)}
            if chosen:
                print(bench.table(chosen, f"native {kind}", work(case, chosen), "GFLOP/s"), "\n")


def jobs(case: dict) -> dict:
    import paddle
    import paddle.nn.functional as F

    from ernie5.ops import backend
    from ernie5.ops.attention import Mask, flashmask_attention

    batch, queries, keys, head_dim = (case[name] for name in ("batch", "queries", "keys", "head_dim"))
    repeats = case["repeats"]
    query = paddle.randn([batch, queries, case["heads"], head_dim])
    key, value = (paddle.randn([batch, keys, case["kv_heads"], head_dim]) for _ in range(2))
    grad = paddle.randn([batch, queries, case["heads"] * head_dim])
    for tensor in (query, key, value):
        tensor.stop_gradient = False

    mask = Mask(queries, keys, columns(case))  # made once a step, for all layers

    def forward(mode):
        with backend.using(mode), paddle.no_grad():
            for _ in range(repeats):
                flashmask_attention(query, key, value, mask)

    def both(mode):
        with backend.using(mode):
            flashmask_attention(query, key, value, mask).backward(grad)
        for tensor in (query, key, value):
            tensor.clear_grad()

    def stock():
        with paddle.no_grad():
            for _ in range(repeats):
                wide = (paddle.repeat_interleave(one, case["heads"] // case["kv_heads"], 2) for one in (key, value))
                F.scaled_dot_product_attention(query, *wide, is_causal=case["mask"] == "causal")

    found = {f"{mode} forward": lambda mode=mode: forward(mode) for mode in ("native", "reference")}
    if queries <= 2048 and "documents" not in case["mask"]:
        found["stock Paddle forward"] = stock
    if queries > 1:
        found |= {f"{mode} both": lambda mode=mode: both(mode) for mode in ("native", "reference")}
    return found


def columns(case: dict):
    """FlashMask columns of causal documents, or None."""
    import numpy as np

    if case["mask"] == "none":
        return None
    place = np.arange(case["keys"])
    length = case["keys"] // int(case["mask"].split()[0]) if "documents" in case["mask"] else case["keys"]
    return np.stack([(place // length + 1) * length, place], -1)[None].astype(np.int32)


def describe(case: dict) -> str:
    from ernie5.ops.attention import Mask

    mask = Mask(case["queries"], case["keys"], columns(case))
    seen = mask.visible(0, case["queries"]).mean()
    shape = "{batch} x {queries} queries on {keys} keys, {heads} heads on {kv_heads} of {head_dim}".format(**case)
    calls = f", {case['repeats']} calls" if case["repeats"] > 1 else ""
    return f"{shape}, {case['mask']} ({seen:.0%} of the pairs visible){calls}"


def work(case: dict, names) -> dict[str, float]:
    """GFLOP of the visible pairs: two products forward, five backward."""
    from ernie5.ops.attention import Mask

    seen = Mask(case["queries"], case["keys"], columns(case)).visible(0, case["queries"]).sum()
    product = 2e-9 * case["batch"] * case["heads"] * case["head_dim"] * float(seen)
    return {name: product * (2 * case["repeats"] if name.endswith("forward") else 7) for name in names}


if __name__ == "__main__":
    main()
