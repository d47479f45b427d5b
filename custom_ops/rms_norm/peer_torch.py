"""torch's RMS norm, for bench_rms_norm.py."""

import torch
import torch.nn.functional as F


def jobs(case: dict, threads: int) -> dict:
    torch.set_num_threads(threads)
    rows, hidden = case["rows"], case["hidden"]
    x, weight, grad = torch.randn(rows, hidden), torch.ones(hidden), torch.randn(rows, hidden)
    x.requires_grad_()
    weight.requires_grad_()

    def forward():
        with torch.no_grad():
            F.rms_norm(x, [hidden], weight, 1e-5)

    def both():
        torch.autograd.grad(F.rms_norm(x, [hidden], weight, 1e-5), [x, weight], grad)

    def composed():
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight
        torch.autograd.grad(y, [x, weight], grad)

    return {"torch forward": forward, "torch both": both, "torch composed both": composed}
