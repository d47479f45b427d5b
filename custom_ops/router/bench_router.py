"""The router: compiled, its definition, and torch's. python -m custom_ops.router.bench_router --peer-python PATH"""

from custom_ops.common import bench

CASES = [{"tokens": 2048, "experts": 64, "top_k": 4}, {"tokens": 2048, "experts": 384, "top_k": 8}]


def prepare(case: dict[str, int]) -> bench.Prepared:
    import paddle

    from ernie5.ops.router import route

    tokens, experts, top_k = case["tokens"], case["experts"], case["top_k"]
    logits, grad = paddle.randn([tokens, experts]), paddle.randn([tokens, top_k])
    bias, mask = paddle.randn([experts]) / 100, paddle.zeros([experts])
    logits.stop_gradient = False

    def forward():
        with paddle.no_grad():
            route(logits, bias, mask, top_k, "softmax")

    def both():
        route(logits, bias, mask, top_k, "softmax").topk_weights.backward(grad)
        logits.clear_grad()

    gigabytes = tokens * experts * 4 / 1e9
    # Read the logits; then read them again and write their gradient. What a choice takes is small beside them.
    work = {"forward": gigabytes, "both": 3 * gigabytes}
    title = f"{tokens} tokens, {experts} experts, top {top_k}, softmax"
    return bench.Prepared(title, {"forward": forward, "both": both}, work)


if __name__ == "__main__":
    bench.main(__doc__, __file__, CASES, prepare)
