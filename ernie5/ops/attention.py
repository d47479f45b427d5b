"""Grouped-query attention under a FlashMask (arXiv:2410.01359), without a [seq, seq] mask where none is needed."""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import paddle
import paddle.nn.functional as F

from ernie5.ops import backend

DTYPES = backend.Dtypes(backend.CPU_FLOATS, (paddle.bfloat16,))
GPU_HEAD_DIMS = (64, 128)  # of the kernel for GPUs
HIDDEN = -1e30  # score of a key that a query must not see; finite, so a row that sees nothing stays a number
# Queries worked on together: smaller skips more hidden keys, larger makes better GEMMs. Which wins depends on how
# far a query sees: rows of short documents are a tenth faster in a training step with the small one.
QUERY_BLOCK, SMALL_QUERY_BLOCK = 128, 64


class Mask:
    """Which keys each query sees; made once for all layers.

    columns int32 [batch or 1, keys, 1, 2 or 4]: which queries, counted from 0, a key is hidden from; None: from none.
    One: from lower_start on. Two: [lower_start, lower_end) if causal, else from lower_start on and before upper_end.
    Four, not causal: [lower_start, lower_end) and [upper_start, upper_end). A causal mask also hides the keys behind a
    query, the last query standing beside the last key. A query that sees no key attends to nothing: its output is 0.
    """

    def __init__(self, num_queries: int, num_keys: int, columns: np.ndarray | None = None, causal: bool = False):
        self.num_queries, self.num_keys, self.causal = num_queries, num_keys, causal
        if causal and columns is not None and columns.shape[2] == 4:
            raise ValueError("a causal mask has one or two columns, not four")
        self._columns = np.zeros([1, num_keys, 0], np.int32) if columns is None else columns

    @cached_property
    def columns(self) -> paddle.Tensor:
        """int32 [batch or 1, keys, 1, 2 or 4], as the compiled operator reads them; [1, 0, 0] where there are none."""
        return paddle.to_tensor(self._columns) if self._columns.shape[2] else _no_columns()

    @cached_property
    def past(self) -> paddle.Tensor:
        """int64 [1]: the keys that stand before the first query."""
        return paddle.to_tensor(np.array([self.num_keys - self.num_queries]))

    def visible(self, first: int, last: int) -> np.ndarray:
        """bool [batch or 1, last - first, keys] of the queries [first, last): the definition of the column form."""
        query = np.arange(first, last)[None, :, None]
        hidden = np.zeros([1, last - first, self.num_keys], bool)
        for start, end in self._hidden_from():
            hidden = hidden | ((query >= start[:, None]) & (query < end[:, None]))
        return ~hidden

    def part(self, queries: np.ndarray, keys: np.ndarray) -> "Mask":
        """The mask of some of the queries over some of the keys, both ascending positions, int64 [n].

        A run of queries that hides a key is one of the queries that are left, too; so a part has columns as the whole.
        """
        runs = [np.searchsorted(queries, run[:, keys]) for pair in self._hidden_from() for run in pair]
        if not runs:
            return Mask(len(queries), len(keys))
        runs = np.broadcast_arrays(*runs, *[np.zeros_like(runs[0])] * (4 - len(runs)))
        if (runs[1] == len(queries)).all() and not runs[2].any():
            runs = [runs[0], runs[3]]
        return Mask(len(queries), len(keys), np.stack(runs, -1).astype(np.int32))

    def seen(self) -> np.ndarray:
        """bool [batch or 1, keys]: whether any query sees a key; queries by keys are not spelled out."""
        hidden = np.zeros([1, self.num_keys], np.int64)  # how many queries it is hidden from
        overlap_start, overlap_end = hidden, hidden + self.num_queries
        runs = [run.clip(0, self.num_queries) for pair in self._hidden_from() for run in pair]
        for start, end in zip(runs[::2], runs[1::2], strict=True):
            hidden = hidden + (end - start).clip(0)
            overlap_start, overlap_end = np.maximum(overlap_start, start), np.minimum(overlap_end, end)
        if len(runs) == 4:  # counted twice
            hidden = hidden - (overlap_end - overlap_start).clip(0)
        return hidden < self.num_queries

    def _hidden_from(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """At most two runs of queries [start, end) that each key is hidden from, int [batch or 1, keys] each."""
        columns = [self._columns[..., i] for i in range(self._columns.shape[2])]
        first, last = np.zeros([1, self.num_keys], np.int64), np.full([1, self.num_keys], self.num_queries)
        if len(columns) == 4:
            runs = [(columns[0], columns[1]), (columns[2], columns[3])]
        elif len(columns) == 2 and self.causal:
            runs = [(columns[0], columns[1])]
        elif len(columns) == 2:
            runs = [(columns[0], last), (first, columns[1])]
        else:
            runs = [(columns[0], last)] if columns else []
        if self.causal:
            runs.append((first, np.arange(self.num_keys)[None] - (self.num_keys - self.num_queries)))
        return runs

    @cached_property
    def tiles(self) -> list["Tile"]:
        """The tiles that cover what is visible.

        Hidden keys at both ends of a tile are left out of it, and a tile whose keys are all visible carries no bias.
        """
        starts = range(0, self.num_queries, self._query_block())
        return [self._tile(first, min(first + starts.step, self.num_queries)) for first in starts]

    def _query_block(self) -> int:
        if self._columns.shape[2] < 2 or self.causal:
            return QUERY_BLOCK
        reach = (self._columns[..., 0] - self._columns[..., -1]).mean()
        return QUERY_BLOCK if reach > SMALL_QUERY_BLOCK else SMALL_QUERY_BLOCK

    def _tile(self, first: int, last: int) -> "Tile":
        pairs = self.visible(first, last)
        seen = np.flatnonzero(pairs.any((0, 1)))
        start, end = (seen[0], seen[-1] + 1) if seen.size else (0, 1)
        pairs = pairs[:, :, start:end]
        if (pairs == pairs[:1]).all():
            pairs = pairs[:1]
        bias = sees = None
        if not pairs.all():
            bias = paddle.to_tensor(np.where(pairs, np.float32(0), np.float32(HIDDEN))[:, None])
            if not pairs.any(-1).all():
                sees = paddle.to_tensor(pairs.any(-1, keepdims=True)[:, None].astype(np.float32))
        return Tile(first, last, int(start), int(end), bias, sees)


def _no_columns() -> paddle.Tensor:
    """One tensor for every decoding step; a program that is being traced needs its own."""
    return _cached_no_columns() if paddle.in_dynamic_mode() else paddle.zeros([1, 0, 0], "int32")


@cache
def _cached_no_columns() -> paddle.Tensor:
    return paddle.zeros([1, 0, 0], "int32")


@dataclass(frozen=True)
class Tile:
    """A run of queries with the run of keys that any of them may see."""

    query_start: int
    query_end: int
    key_start: int
    key_end: int
    bias: paddle.Tensor | None  # float32 [batch or 1, 1, queries, keys], 0 or HIDDEN; None: every key is visible
    sees: paddle.Tensor | None  # float32 [batch or 1, 1, queries, 1], 0 for those that see no key; None: all see one


def flashmask_attention(query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor, mask: Mask) -> paddle.Tensor:
    """softmax(query key^T / sqrt(head_dim) + mask) value.

    query [batch, queries, heads, head_dim], key and value [batch, keys, kv_heads, head_dim] -> [batch, queries, heads *
    head_dim]. Head h reads the keys and values of head h // (heads / kv_heads).
    """
    if backend.takes("flashmask_attention", DTYPES, query, key, value) and _fits(query.shape[3]):
        return backend.call("flashmask_attention", [query, key, value, mask.columns], mask.causal)[0]
    return _attention_by_tiles(query, key, value, mask.tiles)


def _fits(head_dim: int) -> bool:
    return not backend.on_gpu() or head_dim in GPU_HEAD_DIMS


def _attention_by_tiles(query, key, value, tiles: list[Tile]) -> paddle.Tensor:
    """The queries of one key-value head are worked on as rows of one product; keys and values are not repeated."""
    batch, num_queries, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    group = heads // kv_heads
    # [batch, kv_heads, queries * group, head_dim]: the heads of a group lie beside each other, so a tile is one slice
    rows = (query * head_dim**-0.5).reshape([batch, num_queries, kv_heads, group, head_dim]).transpose([0, 2, 1, 3, 4])
    rows = rows.reshape([batch, kv_heads, num_queries * group, head_dim])
    key, value = key.transpose([0, 2, 1, 3]), value.transpose([0, 2, 1, 3])  # [batch, kv_heads, keys, head_dim]
    sizes = [(tile.query_end - tile.query_start) * group for tile in tiles]
    parts = paddle.split(rows, sizes, axis=2) if len(tiles) > 1 else [rows]
    outputs = [_attend(part, key, value, tile, group) for part, tile in zip(parts, tiles, strict=True)]
    output = paddle.concat(outputs, axis=2) if len(tiles) > 1 else outputs[0]
    output = output.reshape([batch, kv_heads, num_queries, group, head_dim]).transpose([0, 2, 1, 3, 4])
    return output.reshape([batch, num_queries, heads * head_dim])


def _attend(rows, key, value, tile: Tile, group: int) -> paddle.Tensor:
    """rows [batch, kv_heads, queries * group, head_dim] -> the same shape."""
    if (tile.key_start, tile.key_end) != (0, key.shape[2]):
        key, value = key[:, :, tile.key_start : tile.key_end], value[:, :, tile.key_start : tile.key_end]
    scores = paddle.matmul(rows, key, transpose_y=True).astype("float32")  # [batch, kv_heads, queries * group, keys]
    if tile.bias is not None:
        scores = scores + _spread(tile.bias, key.shape[1], group)
    output = paddle.matmul(F.softmax(scores, axis=-1).astype(value.dtype), value)
    return output if tile.sees is None else output * _spread(tile.sees, key.shape[1], group).astype(output.dtype)


def _spread(bias, kv_heads: int, group: int) -> paddle.Tensor:
    """The bias in a shape that is added fast: all dims of the scores, or the last two where the batch shares it.

    Broadcasting over any other dims takes Paddle's CPU kernel ten times as long.
    """
    bias_batch, _, queries, keys = bias.shape
    if bias_batch == 1:
        return bias.transpose([0, 2, 1, 3]).expand([1, queries, group, keys]).reshape([queries * group, keys])
    bias = bias.unsqueeze(3).expand([bias_batch, kv_heads, queries, group, keys])
    return bias.reshape([bias_batch, kv_heads, queries * group, keys])
