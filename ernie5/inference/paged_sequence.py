"""One sequence that grows in pages: a prompt and its answer, or the unconditional side of guidance."""

import hashlib
from typing import NamedTuple

import numpy as np

from ernie5.inference.page_pool import PagePool
from ernie5.layers.pages import PAGE_KEYS, Row
from ernie5.modality.token_layout import TO_THE_END

# What decides the keys of a token, beside the tokens before it; medium: digest of the picture or sound it belongs to.
RECORD = np.dtype(
    [("id", "<i8"), ("position", "<f4", 3), ("from", "<i4"), ("until", "<i4"), ("medium", "S16")], align=False
)


class Places(NamedTuple):
    """Where some tokens of a sequence stand and who sees them, by their numbers in it."""

    positions: np.ndarray  # float32 [n, 3]: t, h, w
    seen_from: np.ndarray  # int64 [n]
    seen_until: np.ndarray  # int64 [n]; TO_THE_END: every later token sees it


class PagedSequence:
    """What has been read of a sequence. Close it, so that others get its pages."""

    def __init__(self, pool: PagePool):
        self._pool = pool
        self.pages: list[int] = []
        self.kept = 0  # keys in the pages
        self.number = 0  # of the next token
        self.position = np.float32(0)  # t, h and w of the next word
        self._forgets = False  # some keys go out of sight
        self._digest: bytes | None = b""  # of all that stands before the records; None: it cannot be known again
        self._records: list[np.ndarray] = []  # of the tokens behind the last page that was remembered
        self._remembered = 0  # pages

    def word_places(self, count: int) -> Places:
        """Of the next words, and moves `position` behind them."""
        positions = self.position + np.arange(count, dtype=np.float32)
        self.position = np.float32(self.position + count)
        return Places(
            np.repeat(positions[:, None], 3, axis=1),
            np.arange(self.number, self.number + count),
            np.full(count, TO_THE_END, np.int64),
        )

    def reuse(self, records: np.ndarray) -> int:
        """Begins with pages that others have read; how many of these tokens they hold, never the last one."""
        assert self.number == 0, "only the beginning can be reused"
        for first in range(0, (len(records) - 1) // PAGE_KEYS * PAGE_KEYS, PAGE_KEYS):
            digest = _digest(self._digest, records[first : first + PAGE_KEYS])
            page = self._pool.find(digest)
            if page is None:
                break
            self.pages.append(page)
            self._digest = digest
        self.kept = self.number = len(self.pages) * PAGE_KEYS
        self._remembered = len(self.pages)
        self._forgets = bool((records["until"][: self.number] < TO_THE_END).any())
        return self.number

    def reserve(self, count: int) -> None:
        """Pages for so many more tokens; OutOfPages if there are none, and then nothing has changed."""
        wanted = -(-(self.kept + count) // PAGE_KEYS) - len(self.pages)
        taken = []
        try:
            for _ in range(wanted):
                taken.append(self._pool.take())
        except Exception:
            for page in taken:
                self._pool.release(page)
            raise
        self.pages += taken

    def add(self, count: int, places: Places, records: np.ndarray | None) -> Row:
        """Marks who sees the next tokens, for which there are pages, and counts them as read.

        records [count] say what they are; None: the pages from here on are not found again.
        """
        row = Row(count, self.kept, self.number, tuple(self.pages))
        self._pool.pages.mark(row, places.seen_from, places.seen_until)
        self._forgets |= bool((places.seen_until < TO_THE_END).any())
        self.kept += count
        self.number += count
        if records is None:
            self._digest = None
        if self._digest is not None:
            self._records.append(records)
        return row

    def row_of_pairs(self, count: int) -> Row:
        """Of the last tokens, each with the one behind it: where the second ones stand, for which there is a page."""
        return Row(count, self.kept - count + 1, self.number - count + 1, tuple(self.pages))

    def drop_last(self) -> None:
        """Takes back the last token, a word."""
        self.kept -= 1
        self.number -= 1
        self.position = np.float32(self.position - 1)
        if self._digest is not None:
            self._records[-1] = self._records[-1][:-1]

    def was_read(self) -> None:
        """The keys of all tokens are there now."""
        self._remember(self.kept - 1)  # the last one may be taken back
        self.let_go()

    def let_go(self) -> None:
        """Gives back pages that hold nothing any later token sees."""
        if not self._forgets:
            return
        full = self.pages[: self.kept // PAGE_KEYS]
        hidden = {page for page in full if self._pool.pages.seen[page, :, 1].max() <= self.number}
        if hidden:
            self._digest = None  # what is left would be found without them
        for page in hidden:
            self._pool.release(page)
        self.pages = [page for page in self.pages if page not in hidden]
        self.kept -= len(hidden) * PAGE_KEYS

    def distrust(self) -> None:
        """Nobody shall find pages from here on: a step has failed, and what they hold is not known."""
        self._digest, self._records = None, []

    def close(self) -> None:
        """Gives all pages back."""
        self._remember(self.kept)
        for page in self.pages:
            self._pool.release(page)
        self.pages, self.kept, self._records, self._digest = [], 0, [], None

    def _remember(self, certain: int) -> None:
        """Pages that are full of so many tokens can be found from now on."""
        if self._digest is None or certain // PAGE_KEYS <= self._remembered:
            return
        records = np.concatenate(self._records)
        while self._remembered < certain // PAGE_KEYS:
            self._digest = _digest(self._digest, records[:PAGE_KEYS])
            self._pool.remember(self.pages[self._remembered], self._digest)
            records = records[PAGE_KEYS:]
            self._remembered += 1
        self._records = [records]


def records_of(ids: np.ndarray, places: Places, media: np.ndarray | None = None) -> np.ndarray:
    """RECORD [n] of tokens with these ids; `media` S16 [n] are the digests of what they show or let hear."""
    records = np.zeros(len(ids), RECORD)
    records["id"], records["position"] = ids, places.positions
    records["from"], records["until"] = places.seen_from, places.seen_until
    if media is not None:
        records["medium"] = media
    return records


def _digest(before: bytes, records: np.ndarray) -> bytes:
    return hashlib.blake2b(before + records.tobytes(), digest_size=16).digest()
