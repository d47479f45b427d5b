"""torch's linear map in float32 and under autocast to bfloat16, for bench_linear.py."""

import torch
import torch.nn.functional as F


def jobs(case: dict, threads: int) -> dict:
    torch.set_num_threads(threads)
    x = torch.randn(case["rows"], case["in"], requires_grad=True)
    weight = torch.randn(case["out"], case["in"], requires_grad=True)
    grad = torch.randn(case["rows"], case["out"])

    def forward(enabled):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            for _ in range(case["calls"]):
                F.linear(x, weight)

    def both(enabled):
        for _ in range(case["calls"]):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                y = F.linear(x, weight)
            torch.autograd.grad(y, [x, weight], grad.to(y.dtype))

    return {
        f"{name} {kind}": lambda run=run, enabled=enabled: run(enabled)
        for kind, run in (("forward", forward), ("both", both))
        for name, enabled in (("torch float32", False), ("torch autocast", True))
    }
