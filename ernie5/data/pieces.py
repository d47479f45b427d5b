"""What training draws from a corpus: its documents, the long plain texts among them in pieces.

A book read from its first page to its last would fill many rows in a row with itself: one batch would hold one chapter.
Pieces are drawn in any order, and their cuts move from epoch to epoch, so that no place is always a beginning.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate

from ernie5.data.corpus import Corpus
from ernie5.data.manifest import BadLine
from ernie5.data.sample import Sample, Text
from ernie5.data.shuffle import derive_key

_SNAP_BYTES = 256  # how far a cut looks ahead for the beginning of a line or a word


class Pieces:
    """The training samples of a corpus. A text of at least `2 * piece_bytes` is cut; 0 cuts none."""

    def __init__(self, corpus: Corpus, piece_bytes: int, seed: int):
        self.corpus, self.seed = corpus, seed
        self._firsts = None  # number of pieces before each document, where any document is cut
        if piece_bytes:
            counts = (max(1, corpus.length(i) // piece_bytes) if corpus.is_text(i) else 1 for i in range(len(corpus)))
            self._firsts = [0, *accumulate(counts)]

    def __len__(self) -> int:
        return self._firsts[-1] if self._firsts else len(self.corpus)

    def sample(self, index: int, epoch: int) -> Sample:
        """Piece `index` as it is cut in `epoch`. Raises BadLine."""
        if self._firsts is None:
            return self.corpus[index]
        document = bisect_right(self._firsts, index) - 1
        place, count = index - self._firsts[document], self._firsts[document + 1] - self._firsts[document]
        if count == 1:
            return self.corpus[document]
        start, end = self._cut(document, place, count, epoch), self._cut(document, place + 1, count, epoch)
        return Sample(
            segments=(Text(self.corpus.text(document, start, end)),),
            origin=self.corpus.origin(document),
            begins=place == 0,
            ends=place + 1 == count,
        )

    def samples(self, skip_bad_lines: bool, indices: Iterable[int] | None = None) -> Iterator[Sample]:
        """The pieces (of those indices) of the first epoch in order; malformed lines left out, or else BadLine."""
        for index in range(len(self)) if indices is None else indices:
            try:
                yield self.sample(index, epoch=0)
            except BadLine:
                if not skip_bad_lines:
                    raise

    def _cut(self, document: int, place: int, count: int, epoch: int) -> int:
        """Where piece `place` of `count` begins: all inner cuts of an epoch move together, by up to half a piece."""
        length = self.corpus.length(document)
        if place in (0, count):
            return length * (place // count)
        step = length // count
        shift = derive_key(self.seed, "cut", self.corpus.name, document, epoch) % step - step // 2
        position = length * place // count + shift
        return position + _offset_of_beginning(self.corpus.read(document, position, position + _SNAP_BYTES))


def _offset_of_beginning(data: bytes) -> int:
    """The first place in `data` where a line begins, or else a word, or else a UTF-8 character."""
    for mark in (b"\n", b" "):
        if mark in data:
            return data.index(mark) + 1
    return next((i for i, byte in enumerate(data) if byte & 0xC0 != 0x80), len(data))
