"""Randomness with an address: keys, and shuffles that are computed place by place and never stored.

Written out instead of taken from NumPy, whose generators may change their streams between versions: the order of the
data must be the same after an upgrade in the middle of a run.
"""

import hashlib

_WORD = (1 << 64) - 1
_ROUNDS = 6  # three make a Feistel network pseudo-random (Luby and Rackoff, 1988); small halves want more


def derive_key(*address: int | str) -> int:
    """A 64-bit key that is a function of its address, e.g. (seed, "order", source, epoch)."""
    return int.from_bytes(hashlib.blake2b(repr(address).encode(), digest_size=8).digest(), "little")


def permute(index: int, size: int, key: int) -> int:
    """Where `index` of 0..size-1 goes in the permutation that `key` names.

    A Feistel network over the next even number of bits; results past the end walk on until they fall inside
    (Black and Rogaway, 2002), four steps on average at worst.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for round_id in range(_ROUNDS):
            left, right = right, left ^ (_mix(right ^ key ^ (round_id << 56)) & mask)
        index = left << half | right
        if index < size:
            return index


def _mix(word: int) -> int:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every input bit changes every output bit."""
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & _WORD
    return word ^ (word >> 31)
