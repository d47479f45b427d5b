"""torch's scaled_dot_product_attention, for bench_flashmask_attention.py: documents are a dense boolean mask there."""

import torch
import torch.nn.functional as F


def jobs(case: dict, threads: int) -> dict:
    torch.set_num_threads(threads)
    batch, queries, keys, head_dim = (case[name] for name in ("batch", "queries", "keys", "head_dim"))
    query = torch.randn(batch, case["heads"], queries, head_dim, requires_grad=True)
    key, value = (torch.randn(batch, case["kv_heads"], keys, head_dim, requires_grad=True) for _ in range(2))
    grad = torch.randn(batch, case["heads"], queries, head_dim)
    mask = None
    if "documents" in case["mask"]:
        place = torch.arange(keys)
        document = place // (keys // int(case["mask"].split()[0]))
        mask = (document[:, None] == document) & (place[:, None] >= place)

    def attention():
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=case["mask"] == "causal", enable_gqa=True
        )

    def forward():
        with torch.no_grad():
            for _ in range(case["repeats"]):
                attention()

    def both():
        torch.autograd.grad(attention(), [query, key, value], grad)

    return {"torch forward": forward} | ({"torch both": both} if queries > 1 else {})
