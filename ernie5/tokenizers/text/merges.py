"""Byte-pair merges with BPE-dropout (arXiv:1910.13267), as a pure function of text, probability and seed.

sentencepiece can drop merges too, but its generator belongs to the process; a resumed run and its worker processes need
draws that depend on the arguments alone. Without dropout the result is sentencepiece's, merge for merge.
"""

import math
import random
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

_LONGEST_CACHED = 32  # symbols of a chunk
_MAX_CACHED = 1 << 16  # chunks


class Gaps:
    """How many merges are kept before each dropped one: the gaps of a coin that drops with probability p.

    Drawing gaps instead of coins lets a whole chunk whose merges all survive be taken from the cache.
    """

    def __init__(self, probability: float, seed: int):
        self._random = random.Random(int(seed)).random
        self._log_keep = math.log1p(-probability)
        self.left = self._draw()  # merges still to keep before the next is dropped

    def renew(self) -> None:
        """Called when a merge was dropped."""
        self.left = self._draw()

    def _draw(self) -> int:
        return int(math.log1p(-self._random()) / self._log_keep)


class NoGaps:
    """Never drops: stands in for `Gaps` at probability 0."""

    left = -1  # counts down from here and so never comes to 0

    def renew(self) -> None:
        """Never called."""


class Merges:
    """The merges of a vocabulary: any two neighbours merge when together they are a piece, lowest rank first."""

    def __init__(self, ranks: dict[str, int]):
        self._ranks = ranks  # of the pieces of two or more symbols
        self._bigrams = {piece[i : i + 2] for piece in ranks for i in range(len(piece) - 1)}
        self._cache: dict[str, tuple[tuple[str, ...], int]] = {}

    def split(self, symbols: str, bpe_dropout: float = 0.0, seed: int = 0) -> list[str]:
        """The pieces of a string of symbols. A merge that comes up is dropped with the given probability."""
        if bpe_dropout >= 1.0:
            return list(symbols)
        gaps = Gaps(bpe_dropout, seed) if bpe_dropout > 0.0 else NoGaps()
        pieces: list[str] = []
        for chunk in self._chunks(symbols):
            if len(chunk) == 1:
                pieces.append(chunk)
                continue
            kept, num_merges = self._without_dropout(chunk)
            if 0 <= gaps.left < num_merges:
                pieces += self._merge(chunk, gaps)[0]
            else:
                gaps.left -= num_merges
                pieces += kept
        return pieces

    def count_made(self, chunk: str) -> list[str]:
        """Every piece that merging a string makes on its way, those that grow into longer ones included."""
        return self._merge(chunk, NoGaps())[1]

    def _chunks(self, symbols: str) -> Iterator[str]:
        """Cuts where no piece can lie across: between two symbols that follow one another in no piece."""
        bigrams, start = self._bigrams, 0
        for i in range(1, len(symbols)):
            if symbols[i - 1 : i + 1] not in bigrams:
                yield symbols[start:i]
                start = i
        if symbols:
            yield symbols[start:]

    def _without_dropout(self, chunk: str) -> tuple[tuple[str, ...], int]:
        """The pieces of a chunk and how many merges made them."""
        found = self._cache.get(chunk)
        if found is None:
            pieces, made = self._merge(chunk, NoGaps())
            found = tuple(pieces), len(made)
            if len(chunk) <= _LONGEST_CACHED and len(self._cache) < _MAX_CACHED:
                self._cache[chunk] = found
        return found

    def _merge(self, chunk: str, gaps: Gaps | NoGaps) -> tuple[list[str], list[str]]:
        """Merges until nothing can be. Returns the pieces, and every piece made, in order.

        A queue holds (rank, start, length) of each pair that may merge; ties go to the left, as in sentencepiece.
        """
        ranks, length = self._ranks, len(chunk)
        piece_at = list(chunk)  # by the place of its first symbol; "" where a piece was merged away
        following = list(range(1, length + 1))
        preceding = list(range(-1, length - 1))
        queue = [(ranks[chunk[i : i + 2]], i, 2) for i in range(length - 1) if chunk[i : i + 2] in ranks]
        heapify(queue)
        made = []
        while queue:
            _, left, size = heappop(queue)
            right = following[left]
            if not piece_at[left] or right >= length or len(piece_at[left]) + len(piece_at[right]) != size:
                continue  # one of the two has since merged with another
            if gaps.left == 0:
                gaps.renew()
                continue
            gaps.left -= 1
            merged = chunk[left : left + size]
            made.append(merged)
            piece_at[left], piece_at[right] = merged, ""
            after, before = following[right], preceding[left]
            following[left] = after
            if after < length:
                preceding[after] = left
                self._offer(queue, chunk, left, after + len(piece_at[after]))
            if before >= 0:
                self._offer(queue, chunk, before, left + size)
        return [piece for piece in piece_at if piece], made

    def _offer(self, queue: list[tuple[int, int, int]], chunk: str, start: int, end: int) -> None:
        rank = self._ranks.get(chunk[start:end])
        if rank is not None:
            heappush(queue, (rank, start, end - start))
