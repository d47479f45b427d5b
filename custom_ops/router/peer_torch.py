"""The same router of torch's operators, for bench_router.py."""

import torch


def jobs(case: dict, threads: int) -> dict:
    torch.set_num_threads(threads)
    tokens, experts, top_k = case["tokens"], case["experts"], case["top_k"]
    logits, grad = torch.randn(tokens, experts), torch.randn(tokens, top_k)
    bias, mask = torch.randn(experts) / 100, torch.zeros(experts)
    logits.requires_grad_()

    def route():
        scores = torch.softmax(logits + mask, -1)
        with torch.no_grad():
            ids = torch.topk(scores + bias + mask, top_k, -1).indices
        weights = torch.gather(scores, -1, ids)
        counts = torch.bincount(ids.flatten(), minlength=experts)
        return ids, weights / weights.sum(-1, keepdim=True).clamp(min=1e-12), counts

    def forward():
        with torch.no_grad():
            route()

    def both():
        torch.autograd.grad(route()[1], [logits], grad)

    return {"torch forward": forward, "torch both": both}
