"""scikit-learn's 1,797 real scans of handwritten digits, and who may see which."""

import hashlib
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from ernie5.errors import UserError

Split = Literal["judge", "train", "validation", "test"]

# Share of each class. The judge learns from scans that no model or tokenizer ever sees; test is held out from both.
SHARES: dict[Split, float] = {"judge": 1 / 3, "test": 1 / 6, "validation": 1 / 30, "train": 7 / 15}


class Scans(NamedTuple):
    """All scans; the place of a scan here is its id."""

    pixels: np.ndarray  # uint8 [scans, 8, 8], 0 (paper) to 16 (ink)
    digits: np.ndarray  # int64 [scans]


@cache
def load_scans() -> Scans:
    """The scans that come with scikit-learn. Raises UserError where it is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("the digit world needs scikit-learn: pip install 'ernie5[data]'") from None
    loaded = load_digits()
    return Scans(loaded.images.astype(np.uint8), loaded.target.astype(np.int64))


def split_scans(scans: Scans) -> dict[Split, np.ndarray]:
    """Ids of each split, int64, ascending. A function of the scans alone: within a class the order of their hashes."""
    ids: dict[Split, list[int]] = {name: [] for name in SHARES}
    for digit in range(10):
        members = np.flatnonzero(scans.digits == digit).tolist()
        members.sort(key=lambda i: hashlib.sha256(scans.pixels[i].tobytes()).digest())
        bounds = np.rint(np.cumsum([0.0, *SHARES.values()]) * len(members)).astype(int)
        for name, start, end in zip(SHARES, bounds[:-1], bounds[1:], strict=True):
            ids[name] += members[start:end]
    return {name: np.sort(np.array(chosen, dtype=np.int64)) for name, chosen in ids.items()}


def scans_digest(scans: Scans) -> str:
    """SHA-256 over pixels and digits: says whether two machines have the same scans."""
    return hashlib.sha256(scans.pixels.tobytes() + scans.digits.tobytes()).hexdigest()
