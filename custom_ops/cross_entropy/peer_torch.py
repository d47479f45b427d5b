"""torch's losses of a linear head, for bench_cross_entropy.py."""

import torch
import torch.nn.functional as F


def jobs(case: dict, threads: int) -> dict:
    torch.set_num_threads(threads)
    rows, hidden, vocab = case["rows"], case["hidden"], case["vocab"]
    x, weight = torch.randn(rows, hidden), torch.randn(vocab, hidden) * 0.05
    labels = torch.randint(0, vocab, [rows])
    labels[: rows - case["kept"]] = -100
    row_weights = torch.rand(rows)
    x.requires_grad_()
    weight.requires_grad_()

    def loss() -> torch.Tensor:
        losses = F.cross_entropy(F.linear(x, weight), labels, ignore_index=-100, reduction="none")
        return (losses * row_weights).sum()

    def chosen_loss() -> torch.Tensor:
        kept = labels != -100
        losses = F.cross_entropy(F.linear(x[kept], weight), labels[kept], reduction="none")
        return (losses * row_weights[kept]).sum()

    def fused_loss() -> torch.Tensor:
        return F.linear_cross_entropy(x, weight, labels, reduction="sum", ignore_index=-100)

    def forward():
        with torch.no_grad():
            loss()

    def both(loss):
        return lambda: torch.autograd.grad(loss(), [x, weight])

    return {
        "torch forward": forward,
        "torch both": both(loss),
        "torch rows chosen both": both(chosen_loss),
        "torch linear_cross_entropy (no weights) both": both(fused_loss),
    }
