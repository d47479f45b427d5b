"""Uni-RoPE's turn: compiled, its definition, and torch's.

python -m custom_ops.uni_rope.bench_uni_rope --peer-python PATH
"""

from custom_ops.common import bench

CASES = [{"batch": 4, "seq": 512, "heads": 8, "head_dim": 64}, {"batch": 1, "seq": 4096, "heads": 16, "head_dim": 128}]

CALLS = 10  # of a job in a row, as its input lies in the cache in a model, too


def prepare(case: dict[str, int]) -> bench.Prepared:
    import paddle

    from ernie5.ops.uni_rope import uni_rope

    batch, seq, heads, head_dim = case.values()
    states, grad = paddle.randn([batch, seq, heads, head_dim]), paddle.randn([batch, seq, heads, head_dim])
    angles = paddle.rand([batch, seq, 1, head_dim // 2]) * 100
    cos, sin = angles.cos(), angles.sin()
    states.stop_gradient = False

    def forward():
        with paddle.no_grad():
            uni_rope(states, cos, sin)

    def both():
        paddle.grad(uni_rope(states, cos, sin), [states], grad)

    gigabytes = batch * seq * heads * head_dim * 4e-9
    work = {"forward": 2 * gigabytes, "both": 4 * gigabytes}
    return bench.Prepared(f"{batch} x {seq} x {heads} x {head_dim}", {"forward": forward, "both": both}, work)


if __name__ == "__main__":
    bench.main(__doc__, __file__, CASES, prepare, CALLS)
