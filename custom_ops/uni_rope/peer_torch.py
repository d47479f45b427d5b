"""The turn as torch code writes it, for bench_uni_rope.py: by halves, and by complex numbers."""

import torch


def jobs(case: dict, threads: int) -> dict:
    torch.set_num_threads(threads)
    batch, seq, heads, head_dim, calls = case.values()
    states, grad = torch.randn(batch, seq, heads, head_dim), torch.randn(batch, seq, heads, head_dim)
    angles = torch.rand(batch, seq, 1, head_dim // 2) * 100
    cos, sin = angles.cos(), angles.sin()
    wide_cos, wide_sin = torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)
    phases = torch.polar(torch.ones_like(angles), angles)
    states.requires_grad_()

    def by_halves() -> torch.Tensor:
        first, second = states.chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def by_halves_rotated() -> torch.Tensor:
        first, second = states.chunk(2, -1)
        return states * wide_cos + torch.cat([-second, first], -1) * wide_sin

    def by_neighbours() -> torch.Tensor:
        pairs = torch.view_as_complex(states.view(batch, seq, heads, -1, 2))
        return torch.view_as_real(pairs * phases).flatten(-2)

    found = {}
    for name, turn in (("halves", by_halves), ("rotated", by_halves_rotated), ("complex", by_neighbours)):

        def forward(turn=turn):
            with torch.no_grad():
                turn()

        def both(turn=turn):
            torch.autograd.grad(turn(), [states], grad)

        found |= {f"torch {name} forward": forward, f"torch {name} both": both}
    return repeated(found, calls)


def repeated(jobs: dict, calls: int) -> dict:
    return {name: lambda run=run: [run() for _ in range(calls)] for name, run in jobs.items()}
