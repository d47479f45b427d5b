"""torch's AdamW, for bench_adamw.py."""

import torch


def jobs(case: dict, threads: int) -> dict:
    torch.set_num_threads(threads)
    optimizers, every = {}, {}
    for name, options in (("torch fused", {"fused": True}), ("torch foreach", {"foreach": True})):
        parameters = [torch.nn.Parameter(torch.randn(case["size"])) for _ in range(case["tensors"])]
        for parameter in parameters:
            parameter.grad = torch.randn(case["size"])
        every[name] = parameters
        optimizers[name] = torch.optim.AdamW(parameters, 1e-3, weight_decay=0.1, **options)

    def clipped(name: str):
        def run():
            torch.nn.utils.clip_grad_norm_(every[name], 1.0)
            optimizers[name].step()

        return run

    steps = {f"{name} step": optimizer.step for name, optimizer in optimizers.items()}
    return steps | {f"{name} clipped step": clipped(name) for name in optimizers}
