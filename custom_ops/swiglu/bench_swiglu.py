"""SwiGLU's gate: compiled, its definition, and torch's.

python -m custom_ops.swiglu.bench_swiglu --peer-python PATH
"""

from custom_ops.common import bench

CASES = [{"rows": 2048, "width": 256}, {"rows": 2048, "width": 1024}]

CALLS = 10  # of a job in a row, as its input lies in the cache in a model, too


def prepare(case: dict[str, int]) -> bench.Prepared:
    import paddle

    from ernie5.ops.swiglu import swiglu

    gate, up, grad = (paddle.randn([case["rows"], case["width"]]) for _ in range(3))
    gate.stop_gradient = up.stop_gradient = False

    def forward():
        with paddle.no_grad():
            swiglu(gate, up)

    def both():
        paddle.grad(swiglu(gate, up), (gate, up), grad)

    gigabytes = case["rows"] * case["width"] * 4e-9
    work = {"forward": 3 * gigabytes, "both": (3 + 5) * gigabytes}
    return bench.Prepared(f"{case['rows']} x {case['width']}", {"forward": forward, "both": both}, work)


if __name__ == "__main__":
    bench.main(__doc__, __file__, CASES, prepare, CALLS)
