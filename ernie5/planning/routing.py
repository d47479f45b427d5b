"""How far a token's copies travel, when it chooses its experts evenly."""

from functools import lru_cache
from math import comb


@lru_cache(maxsize=1024)
def expected_groups(num_experts: int, top_k: int, groups: int) -> float:
    """Groups, on average, that have any of a token's experts.

    The experts lie in `groups` equal runs and a token takes any `top_k` of them with equal chance. A given group has
    none of them with probability C(experts - experts / groups, top_k) / C(experts, top_k) (hypergeometric), so it is
    groups * (1 - that).
    """
    missed = comb(num_experts - num_experts // groups, top_k) / comb(num_experts, top_k)
    return groups * (1.0 - missed)
