"""Which pages are held, free, or kept for a text that may come again."""

from collections import OrderedDict
from collections.abc import Sequence

from ernie5.errors import Fault
from ernie5.layers.pages import PAGE_KEYS, Pages

_FIRST = 16  # pages at the start; as many again each time that they do not suffice


class OutOfPages(Fault):
    """All pages are held."""


class PagePool:
    """Hands out pages, at most `limit` of them. A page may have several holders, and nobody writes to it then.

    A full page is known by what was read up to its end. When its last holder gives it back, it stays until room is
    needed; the one that nobody has held for the longest goes first.
    """

    def __init__(self, pages: Pages, limit: int, others: Sequence[Pages] = (), remembers: bool = True):
        """`others` have the same numbering, and get room with `pages`. Unless it remembers, no page is found again."""
        self.pages, self.limit, self._remembers = pages, limit, remembers
        self._others = others
        self._holders: list[int] = []
        self._free: list[int] = []
        self._known: dict[bytes, int] = {}  # digest of all that was read up to a page's end -> the page
        self._digests: dict[int, bytes] = {}  # and the way back
        self._idle: OrderedDict[int, None] = OrderedDict()  # known, and nobody holds them; the longest first

    @property
    def available(self) -> int:
        """Pages that `take` would give."""
        return self.limit - len(self._holders) + len(self._free) + len(self._idle)

    @property
    def held(self) -> int:
        """Pages that have a holder."""
        return len(self._holders) - len(self._free) - len(self._idle)

    @property
    def num_known(self) -> int:
        return len(self._known)

    def take(self) -> int:
        """A page for one holder to write to; OutOfPages if there is none."""
        if not self._free and len(self._holders) < self.limit:
            self._grow()
        if self._free:
            page = self._free.pop()
        elif self._idle:
            page, _ = self._idle.popitem(last=False)
            del self._known[self._digests.pop(page)]
        else:
            raise OutOfPages(f"all {self.limit} pages of {PAGE_KEYS} tokens are in use")
        self._holders[page] = 1
        return page

    def find(self, digest: bytes) -> int | None:
        """One more hold of the page that is known by the digest, if there is one."""
        page = self._known.get(digest)
        if page is not None:
            self._idle.pop(page, None)
            self._holders[page] += 1
        return page

    def remember(self, page: int, digest: bytes) -> None:
        """A full page can be found from now on; of two with the same digest, the first."""
        if self._remembers and page not in self._digests and digest not in self._known:
            self._known[digest], self._digests[page] = page, digest

    def release(self, page: int) -> None:
        """One holder less."""
        self._holders[page] -= 1
        assert self._holders[page] >= 0, "a page was given back twice"
        if self._holders[page] == 0:
            if page in self._digests:
                self._idle[page] = None
            else:
                self._free.append(page)

    def forget(self) -> None:
        """No page can be found any longer."""
        self._free.extend(self._idle)
        self._idle.clear()
        self._known.clear()
        self._digests.clear()

    def _grow(self) -> None:
        old = len(self._holders)
        new = min(max(_FIRST, 2 * old), self.limit)
        for pages in (self.pages, *self._others):
            pages.resize(new)
        self._holders += [0] * (new - old)
        self._free += range(new - 1, old - 1, -1)
