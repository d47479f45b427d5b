"""A few sequences over pages, read in chunks, for tests of what reads them."""

from collections.abc import Sequence

import numpy as np
import paddle

from ernie5.layers.pages import PAGE_KEYS, PagedMask, Pages, Row
from ernie5.modality.token_layout import TO_THE_END


class PagedRows:
    """Sequences whose pages are dealt to them by turns, so that none has pages that follow each other."""

    def __init__(self, count: int, room: int, layer_ids: Sequence[int], kv_shape: tuple[int, int], dtype="float32"):
        pages_each = -(-room // PAGE_KEYS)
        self.pages = Pages(layer_ids, kv_shape, getattr(paddle, dtype))
        self.pages.resize(count * pages_each)
        self.tables = [list(range(row, count * pages_each, count))[::-1] for row in range(count)]
        self.kept = [0] * count

    def mask(self, tokens: Sequence[int], seen=None) -> PagedMask:
        """Of so many new tokens of each sequence, words; `seen`: by sequence, from and until of its new keys."""
        rows = []
        for row, new in enumerate(tokens):
            kept = self.kept[row]
            rows.append(Row(new, kept, kept, tuple(self.tables[row])))
            numbers = np.arange(kept, kept + new)
            self.pages.mark(rows[-1], *((numbers, TO_THE_END) if seen is None else seen[row]))
            self.kept[row] += new
        return PagedMask(rows, self.pages)
