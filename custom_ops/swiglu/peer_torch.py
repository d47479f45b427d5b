"""torch's SwiGLU gate, for bench_swiglu.py."""

import torch
import torch.nn.functional as F


def jobs(case: dict, threads: int) -> dict:
    torch.set_num_threads(threads)
    gate, up, grad = (torch.randn(case["rows"], case["width"]) for _ in range(3))
    gate.requires_grad_()
    up.requires_grad_()

    def forward():
        with torch.no_grad():
            F.silu(gate) * up

    def both():
        torch.autograd.grad(F.silu(gate) * up, [gate, up], grad)

    return repeated({"torch forward": forward, "torch both": both}, case["calls"])


def repeated(jobs: dict, calls: int) -> dict:
    return {name: lambda run=run: [run() for _ in range(calls)] for name, run in jobs.items()}
