"""The loss of bits: compiled, its definition, and torch's.

python -m custom_ops.bitwise_cross_entropy.bench_bitwise_cross_entropy --peer-python PATH
"""

from custom_ops.common import bench

CASES = [{"rows": 4096, "bits": 16}, {"rows": 16384, "bits": 32}]

CALLS = 10  # of a job in a row, as its input lies in the cache in a model, too


def prepare(case: dict[str, int]) -> bench.Prepared:
    import paddle

    from ernie5.ops.bitwise_cross_entropy import bitwise_cross_entropy

    logits, grad = paddle.randn([case["rows"], case["bits"]]), paddle.ones([])
    targets = paddle.randint(0, 2, [case["rows"], case["bits"]]).astype("float32")
    row_weights = paddle.rand([case["rows"]])
    logits.stop_gradient = False

    def forward():
        with paddle.no_grad():
            bitwise_cross_entropy(logits, targets, row_weights)

    def both():
        paddle.grad(bitwise_cross_entropy(logits, targets, row_weights), [logits], grad)

    gigabytes = case["rows"] * case["bits"] * 4e-9
    work = {"forward": 2 * gigabytes, "both": 3 * gigabytes}
    return bench.Prepared(f"{case['rows']} rows of {case['bits']} bits", {"forward": forward, "both": both}, work)


if __name__ == "__main__":
    bench.main(__doc__, __file__, CASES, prepare, CALLS)
