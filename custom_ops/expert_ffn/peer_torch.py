"""The routed experts in torch, for bench_expert_ffn.py: grouped products, and for few tokens gathered matrices too."""

import torch
import torch.nn.functional as F


class Experts:
    """As in transformers' `grouped_mm` and `batched_mm` experts: matrices [experts, out, in]."""

    def __init__(self, tokens: int, hidden: int, ffn: int, experts: int, top_k: int):
        self.states, self.grad = torch.randn(tokens, hidden), torch.randn(tokens, hidden)
        self.ids = torch.rand(tokens, experts).topk(top_k).indices
        self.weights = torch.rand(tokens, top_k)
        self.gate_up = torch.randn(experts, 2 * ffn, hidden) * 0.05
        self.down = torch.randn(experts, hidden, ffn) * 0.05
        for tensor in (self.states, self.weights, self.gate_up, self.down):
            tensor.requires_grad_()

    def grouped(self) -> torch.Tensor:
        tokens, top_k = self.ids.shape
        order = self.ids.flatten().argsort(stable=True)
        counts = torch.bincount(self.ids.flatten(), minlength=len(self.gate_up))
        ends = counts.cumsum(0, dtype=torch.int32)
        rows = self.states[order // top_k]
        gate, up = F.grouped_mm(rows, self.gate_up.transpose(-2, -1), offs=ends).chunk(2, -1)
        rows = F.grouped_mm(F.silu(gate) * up, self.down.transpose(-2, -1), offs=ends)
        rows = rows * self.weights.flatten()[order].unsqueeze(-1)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order))
        return rows[inverse].view(tokens, top_k, -1).sum(1)

    def gathered(self) -> torch.Tensor:
        tokens, top_k = self.ids.shape
        flat = self.ids.flatten()
        rows = self.states.repeat_interleave(top_k, 0).unsqueeze(-1)
        gate, up = torch.bmm(self.gate_up[flat], rows).squeeze(-1).chunk(2, -1)
        rows = torch.bmm(self.down[flat], (F.silu(gate) * up).unsqueeze(-1)).squeeze(-1)
        return (rows * self.weights.flatten().unsqueeze(-1)).view(tokens, top_k, -1).sum(1)

    def looped(self) -> torch.Tensor:
        output = torch.zeros_like(self.states)
        for expert in self.ids.unique().tolist():
            token, choice = torch.where(self.ids == expert)
            gate, up = F.linear(self.states[token], self.gate_up[expert]).chunk(2, -1)
            rows = F.linear(F.silu(gate) * up, self.down[expert])
            output.index_add_(0, token, rows * self.weights[token, choice].unsqueeze(-1))
        return output

    def both(self, run) -> None:
        torch.autograd.grad(run(), [self.states, self.weights, self.gate_up, self.down], self.grad)


def jobs(case: dict, threads: int) -> dict:
    torch.set_num_threads(threads)
    calls = case["calls"]
    experts = Experts(*(case[name] for name in ("tokens", "hidden", "ffn", "experts", "top_k")))

    def forward(run):
        with torch.inference_mode():
            for _ in range(calls):
                run()

    kinds = {"grouped": experts.grouped}
    if case["tokens"] <= 64:
        kinds |= {"gathered": experts.gathered, "looped": experts.looped}
    found = {f"torch {name} forward": lambda run=run: forward(run) for name, run in kinds.items()}
    if case["tokens"] > 64:
        found["torch grouped both"] = lambda: experts.both(experts.grouped)
    return found
