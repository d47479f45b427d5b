"""Logits of few rows: compiled, Paddle's product, and torch's.

python -m custom_ops.head_logits.bench_head_logits --peer-python PATH
"""

from custom_ops.common import bench

CASES = [{"rows": rows, "hidden": 256, "vocab": 8192} for rows in (1, 8)] + [
    {"rows": 1, "hidden": 1024, "vocab": 65536}
]


def prepare(case: dict[str, int]) -> bench.Prepared:
    import paddle

    from ernie5.ops.head_logits import head_logits

    states, weight = paddle.randn([case["rows"], case["hidden"]]), paddle.randn([case["vocab"], case["hidden"]])

    def forward():
        with paddle.no_grad():
            head_logits(states, weight)

    work = {"forward": case["vocab"] * case["hidden"] * 4e-9}
    return bench.Prepared("{rows} x {hidden}, vocabulary {vocab}".format(**case), {"forward": forward}, work)


if __name__ == "__main__":
    bench.main(__doc__, __file__, CASES, prepare)
