"""torch's product with a head, for bench_head_logits.py."""

import torch


def jobs(case: dict, threads: int) -> dict:
    torch.set_num_threads(threads)
    states, weight = torch.randn(case["rows"], case["hidden"]), torch.randn(case["vocab"], case["hidden"])

    def forward():
        with torch.no_grad():
            torch.nn.functional.linear(states, weight)

    return {"torch forward": forward}
