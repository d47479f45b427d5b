"""How close is equal: one table by dtype, for comparisons of two ways to compute the same thing.

Moves (gather, permutation, concatenation) are exact and take no tolerance. Where a test needs a looser bound than the
table's, it states the bound and its reason itself.
"""

from typing import Any

TOLERANCES: dict[str, dict[str, float]] = {
    "float64": {"rtol": 1e-10, "atol": 1e-12},
    "float32": {"rtol": 1e-5, "atol": 1e-6},  # sums of some hundred terms in another order
    "bfloat16": {"rtol": 2e-2, "atol": 2e-2},  # 8 bits of mantissa
    "float16": {"rtol": 2e-3, "atol": 2e-3},  # 11 bits of mantissa
}


def tolerance(dtype: Any) -> dict[str, float]:
    """`rtol` and `atol` for `numpy.testing.assert_allclose`; dtype is a name, a NumPy dtype or a Paddle dtype."""
    return TOLERANCES[str(dtype).removeprefix("paddle.")]
