"""Which sample comes when: a pure function of (seed, number), so that a resume or another worker finds the same."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ernie5.data.shuffle import derive_key, permute


@dataclass(frozen=True, slots=True)
class Draw:
    """What sample number n of a run is."""

    source: int
    index: int  # within the source
    epoch: int  # of the source
    seed: int  # for BPE-dropout, 31 bits


class Mixture:
    """Interleaves sources in proportion to their weights, each above 0; an epoch of a source is a fresh permutation."""

    def __init__(self, names: Sequence[str], sizes: Sequence[int], weights: Sequence[float], seed: int):
        self.names, self.sizes, self.seed = tuple(names), tuple(sizes), seed
        exact = [Fraction(weight) for weight in weights]
        common = math.lcm(*(weight.denominator for weight in exact))
        self._shares = [int(weight * common) for weight in exact]

    def draw(self, number: int) -> Draw:
        """Sample `number`, counted from 0."""
        source, turn = self._place(number)
        epoch, place = divmod(turn, self.sizes[source])
        order = derive_key(self.seed, "order", self.names[source], epoch)
        seed = derive_key(self.seed, "dropout", number) >> 33
        return Draw(source, permute(place, self.sizes[source], order), epoch, seed)

    def epochs(self, number: int) -> dict[str, float]:
        """How many times each source has been gone through before sample `number`."""
        turns, left, remaining = {}, number, sum(self._shares)
        for name, size, share in zip(self.names, self.sizes, self._shares, strict=True):
            taken = left * share // remaining
            turns[name] = taken / size
            left, remaining = left - taken, remaining - share
        return turns

    def _place(self, number: int) -> tuple[int, int]:
        """Sample number -> (source, how many samples of that source came before).

        The first source takes sample n when floor((n+1) p) > floor(n p), so it never is a whole sample off its share;
        the others divide what it leaves in the same way. Whole numbers throughout: exact at any length.
        """
        remaining = sum(self._shares)
        for source, share in enumerate(self._shares):
            before = number * share // remaining
            if (number + 1) * share // remaining > before:
                return source, before
            number, remaining = number - before, remaining - share
        raise AssertionError("the last source takes all that is left")
