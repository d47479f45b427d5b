"""An optimizer step: compiled, Paddle's, and torch's. python -m custom_ops.adamw.bench_adamw --peer-python PATH"""

from custom_ops.common import bench

CASES = [{"tensors": 800, "size": 51_250}, {"tensors": 4, "size": 10_250_000}]  # 41 million parameters


def prepare(case: dict[str, int]) -> bench.Prepared:
    import paddle

    from ernie5.ops.adamw import AdamW
    from ernie5.train.optimizer import clip_grad_norm

    parameters = [paddle.create_parameter([case["size"]], "float32") for _ in range(case["tensors"])]
    for parameter in parameters:
        parameter.grad = paddle.randn([case["size"]])
    optimizer = AdamW(1e-3, parameters=parameters, weight_decay=0.1, apply_decay_param_fun=lambda _: True)

    def clipped_step():
        clip_grad_norm(parameters, 1.0)
        optimizer.step()

    gigabytes = case["tensors"] * case["size"] * 4e-9
    # Parameter and moments are read and written, the gradient is read; the norm reads it once more.
    work = {"clipped step": 8 * gigabytes, "step": 7 * gigabytes}
    title = f"{case['tensors']} tensors of {case['size']}"
    return bench.Prepared(title, {"clipped step": clipped_step, "step": optimizer.step}, work)


if __name__ == "__main__":
    bench.main(__doc__, __file__, CASES, prepare)
