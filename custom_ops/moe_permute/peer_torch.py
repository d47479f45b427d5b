"""The same moves of torch's operators, for bench_moe_permute.py."""

import torch


def jobs(case: dict, threads: int) -> dict:
    torch.set_num_threads(threads)
    tokens, hidden, experts, top_k = (case[name] for name in ("tokens", "hidden", "experts", "top_k"))
    states, rows = torch.randn(tokens, hidden), torch.randn(tokens * top_k, hidden)
    grad, weights = torch.randn(tokens, hidden), torch.rand(tokens, top_k)
    ids = torch.rand(tokens, experts).topk(top_k).indices
    slots = ids.flatten().argsort(stable=True)
    row_ids = slots.argsort()
    for tensor in (states, rows, weights):
        tensor.requires_grad_()

    def sort():
        order = ids.flatten().argsort(stable=True)
        return order, order.argsort(), torch.bincount(ids.flatten(), minlength=experts)

    def permute():
        return states.index_select(0, slots // top_k)

    def unpermute():
        return (rows.index_select(0, row_ids).view(tokens, top_k, hidden) * weights.unsqueeze(-1)).sum(1)

    def forward(run):
        with torch.no_grad():
            run()

    return {
        "torch sort": sort,
        "torch permute": lambda: forward(permute),
        "torch permute both": lambda: torch.autograd.grad(permute(), [states], rows.detach()),
        "torch unpermute": lambda: forward(unpermute),
        "torch unpermute both": lambda: torch.autograd.grad(unpermute(), [rows, weights], grad),
    }
