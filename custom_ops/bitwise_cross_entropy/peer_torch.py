"""torch's loss of bits, for bench_bitwise_cross_entropy.py."""

import torch
import torch.nn.functional as F


def jobs(case: dict, threads: int) -> dict:
    torch.set_num_threads(threads)
    rows, bits = case["rows"], case["bits"]
    logits, targets, row_weights = torch.randn(rows, bits), torch.randint(0, 2, [rows, bits]).float(), torch.rand(rows)
    spread = (row_weights / bits).unsqueeze(1).expand(rows, bits).contiguous()
    logits.requires_grad_()

    def loss() -> torch.Tensor:
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)
        return (losses * row_weights).sum()

    def spread_loss() -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits, targets, weight=spread, reduction="sum")

    def forward():
        with torch.no_grad():
            loss()

    def both():
        torch.autograd.grad(loss(), [logits])

    def spread_both():
        torch.autograd.grad(spread_loss(), [logits])

    return repeated(
        {"torch forward": forward, "torch both": both, "torch with spread weights both": spread_both}, case["calls"]
    )


def repeated(jobs: dict, calls: int) -> dict:
    return {name: lambda run=run: [run() for _ in range(calls)] for name, run in jobs.items()}
