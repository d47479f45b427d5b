"""RMS norm: compiled, its definition, and torch's. python -m custom_ops.rms_norm.bench_rms_norm --peer-python PATH"""

from custom_ops.common import bench

CASES = [{"rows": 2048, "hidden": 256}, {"rows": 4096, "hidden": 1024}]


def prepare(case: dict[str, int]) -> bench.Prepared:
    import paddle

    from ernie5.ops.rms_norm import rms_norm

    rows, hidden = case["rows"], case["hidden"]
    x, grad, weight = paddle.randn([rows, hidden]), paddle.randn([rows, hidden]), paddle.ones([hidden])
    x.stop_gradient = weight.stop_gradient = False

    def forward():
        with paddle.no_grad():
            rms_norm(x, weight, 1e-5)

    def both():
        rms_norm(x, weight, 1e-5).backward(grad)
        x.clear_grad()
        weight.clear_grad()

    gigabytes = rows * hidden * 4 / 1e9
    # Read x, write y; then read x and the gradient, write that of x.
    work = {"forward": 2 * gigabytes, "both": 5 * gigabytes}
    return bench.Prepared(f"{rows} x {hidden}", {"forward": forward, "both": both}, work)


if __name__ == "__main__":
    bench.main(__doc__, __file__, CASES, prepare)
