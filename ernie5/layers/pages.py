"""Keys and values of many sequences in pages, and which of them the new tokens of a step see.

A page is room for `PAGE_KEYS` keys of one sequence. Beside each key lies who sees it: the tokens of its sequence with
numbers n, from <= n < until. So words, scales of pictures, windows of films and what is hidden are one thing, and no
mask is made anew as a sequence grows (docs/decisions/0011-engine.md).
"""

import ctypes
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import paddle

from ernie5.ops.attention import Mask
from ernie5.ops.paged_decoder_layers import PagedRows

PAGE_KEYS = 64  # what the attention operator takes at once


class Row(NamedTuple):
    """The next tokens of one sequence."""

    tokens: int
    kept: int  # keys in its pages, behind which these go
    number: int  # of the first token in its sequence; above `kept` where pages have been let go
    pages: tuple[int, ...]  # with room for the new keys


class PagedMask(Mask):
    """The rows of a step, read as one row of tokens, one sequence behind the other; each sees its own sequence only.

    The keys, as `LayerPages.append` gives them, are those of the rows one behind the other, the new ones last in each.
    """

    def __init__(self, rows: Sequence[Row], pages: "Pages"):
        self.parts = [row for row in rows if row.tokens]
        self.num_queries, self.causal = sum(row.tokens for row in self.parts), False
        self.num_keys = self.num_queries + sum(row.kept for row in self.parts)
        self._pages = pages

    @cached_property
    def rows(self) -> PagedRows:
        """As the compiled operator reads them."""
        rows = np.array([row[:3] for row in self.parts], np.int64).reshape([-1, 3])
        tables = self._pages.tables_of(tuple(row.pages for row in self.parts))
        return PagedRows(paddle.to_tensor(rows), tables, self._pages.seen_tensor)

    @cached_property
    def slots(self) -> np.ndarray:
        """int64 [tokens]: where the new keys go, counted over all pages."""
        return np.concatenate([self._places(row)[row.kept :] for row in self.parts])

    @cached_property
    def sources(self) -> np.ndarray:
        """int64 [keys]: where the keys stand, counted over all pages."""
        return np.concatenate([self._places(row) for row in self.parts])

    @cached_property
    def _columns(self) -> np.ndarray:
        """int32 [1, keys, 2]: the queries from which on, and before which, a key is hidden."""
        seen = self._pages.seen.reshape([-1, 2])[self.sources].astype(np.int64)
        sizes = [row.kept + row.tokens for row in self.parts]
        tokens, numbers = (np.repeat([row[i] for row in self.parts], sizes) for i in (0, 2))
        first = np.repeat(np.cumsum([0, *(row.tokens for row in self.parts)])[:-1], sizes)
        start, end = ((seen[:, i] - numbers).clip(0, tokens) for i in range(2))
        return np.stack([first + end, first + start], -1)[None].astype(np.int32)

    def past_first(self) -> tuple[np.ndarray, np.ndarray]:
        """For who is handed the keys from before apart from the new ones: the sources of those, and the columns int32
        [1, keys, 2] of all keys, those from before in front."""
        counts = [count for row in self.parts for count in (row.kept, row.tokens)]
        is_new = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        order = np.argsort(is_new, kind="stable")
        return self.sources[~is_new], self._columns[:, order]

    @staticmethod
    def _places(row: Row) -> np.ndarray:
        place = np.arange(row.kept + row.tokens)
        return np.asarray(row.pages, np.int64)[place // PAGE_KEYS] * PAGE_KEYS + place % PAGE_KEYS


class LayerPages:
    """Keys and values of one layer, [pages, PAGE_KEYS, kv_heads, head_dim] each."""

    def __init__(self, kv_shape: tuple[int, int], dtype: paddle.dtype):
        self._tail, self._dtype = [PAGE_KEYS, *kv_shape], dtype
        self.keys = self.values = paddle.empty([0, *self._tail], dtype)
        self.weights: object = None  # of the layer, where a compiled operator has gathered them

    def resize(self, count: int) -> None:
        """Room for so many pages; what the first ones hold stays."""
        kept = min(count, self.keys.shape[0])
        room = paddle.zeros([count - kept, *self._tail], self._dtype)
        self.keys, self.values = (paddle.concat([old[:kept], room]) for old in (self.keys, self.values))

    def append(self, key: paddle.Tensor, value: paddle.Tensor, mask: PagedMask) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Adds the new keys and values [1, tokens, kv_heads, head_dim] and returns those of all the mask's rows."""
        slots, sources = paddle.to_tensor(mask.slots), paddle.to_tensor(mask.sources)
        found = []
        for pages, new in ((self.keys, key), (self.values, value)):
            flat = pages.reshape([-1, *pages.shape[2:]])
            flat = paddle.scatter(flat, slots, new[0])
            found.append((flat.reshape(pages.shape), paddle.index_select(flat, sources).unsqueeze(0)))
        (self.keys, keys), (self.values, values) = found
        return keys, values

    def put(self, slots: np.ndarray, key: paddle.Tensor, value: paddle.Tensor) -> None:
        """Writes new keys and values [1, tokens, kv_heads, head_dim] to their slots, in place (on a CPU)."""
        for pages, new in ((self.keys, key), (self.values, value)):
            shared(pages).reshape([-1, *pages.shape[2:]])[slots] = new[0].numpy()

    def take(self, sources: np.ndarray) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Keys and values [1, n, kv_heads, head_dim] of some slots, copied (on a CPU)."""
        views = (shared(pages).reshape([-1, *pages.shape[2:]]) for pages in (self.keys, self.values))
        key, value = (paddle.to_tensor(view[sources][None]) for view in views)
        return key, value


class Pages:
    """Pages of some layers, by one numbering: page p of each layer holds the keys of the same tokens."""

    def __init__(self, layer_ids: Iterable[int], kv_shape: tuple[int, int], dtype: paddle.dtype):
        self.layers = {layer_id: LayerPages(kv_shape, dtype) for layer_id in layer_ids}
        self._tables: tuple[tuple | None, paddle.Tensor | None] = None, None
        self.resize(0)

    def __len__(self) -> int:
        return len(self.seen)

    def resize(self, count: int) -> None:
        """Room for so many pages; what the first ones hold stays."""
        seen = np.zeros([count, PAGE_KEYS, 2], np.int32)
        if count:
            kept = min(count, len(self))
            seen[:kept] = self.seen[:kept]
        self.seen_tensor = paddle.to_tensor(seen)
        self.seen = shared(self.seen_tensor) if count else seen  # the same memory
        for layer in self.layers.values():
            layer.resize(count)

    def tables_of(self, lists: tuple[tuple[int, ...], ...]) -> paddle.Tensor:
        """Pages of several sequences int32 [sequences, pages]; the same tensor for as long as they are the same."""
        if self._tables[0] != lists:
            tables = np.zeros([len(lists), max(map(len, lists), default=0)], np.int32)
            for table, pages in zip(tables, lists, strict=True):
                table[: len(pages)] = pages
            self._tables = lists, paddle.to_tensor(tables)
        return self._tables[1]

    def mark(self, row: Row, seen_from: np.ndarray | int, seen_until: np.ndarray | int) -> None:
        """Who sees the new keys of a row: numbers of tokens of its sequence, int64 [tokens] or one for all."""
        if row.tokens == 1:  # a word, which is what most steps read
            page, slot = divmod(row.kept, PAGE_KEYS)
            self.seen[row.pages[page], slot] = np.ravel(seen_from)[0], np.ravel(seen_until)[0]
        elif row.tokens:
            slots = PagedMask([row], self).slots
            flat = self.seen.reshape([-1, 2])
            flat[slots, 0], flat[slots, 1] = seen_from, seen_until


def shared(tensor: paddle.Tensor) -> np.ndarray:
    """The memory of a dense tensor on a CPU as an array to write to, for as long as the tensor lives.

    bfloat16 as the uint16 that Paddle shows NumPy. Not by DLPack: older versions of NumPy only read what it gives.
    """
    dtype = np.dtype("uint16" if tensor.dtype == paddle.bfloat16 else str(tensor.dtype).removeprefix("paddle."))
    memory = (ctypes.c_char * (tensor.size * dtype.itemsize)).from_address(tensor.data_ptr())
    return np.frombuffer(memory, dtype).reshape(tensor.shape)
