"""Grouped-query attention under a FlashMask (arXiv:2410.01359), without a [seq, seq] mask where none is needed."""

from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F

HIDDEN = -1e30  # score of a key that a query must not see; finite, so a row that sees nothing stays a number
# Queries worked on together: smaller skips more hidden keys, larger makes better GEMMs. Which wins depends on how
# far a query sees: rows of short documents are a tenth faster in a training step with the small one.
QUERY_BLOCK, SMALL_QUERY_BLOCK = 128, 64


@dataclass(frozen=True)
class Tile:
    """A run of queries with the run of keys that any of them may see."""

    query_start: int
    query_end: int
    key_start: int
    key_end: int
    bias: paddle.Tensor | None  # float32 [batch or 1, 1, queries, keys], 0 or HIDDEN; None: every key is visible


def causal_tiles(num_queries: int, num_keys: int) -> list[Tile]:
    """Tiles of the plain causal mask, the last query aligned with the last key (as in decoding over a cache)."""
    past = num_keys - num_queries
    keys = np.arange(num_keys)
    visible_from = np.maximum(keys - past, 0)
    rows = np.stack([np.full(num_keys, num_queries), visible_from], -1)[None].astype(np.int32)
    return flashmask_tiles(rows, num_queries)


def flashmask_tiles(mask_rows: np.ndarray, num_queries: int | None = None) -> list[Tile]:
    """mask_rows int32 [batch, keys, 2 or 4] (see UnifiedSequence) -> the tiles that cover what is visible.

    Hidden keys at both ends of a tile are left out of it, and a tile whose keys are all visible carries no bias.
    """
    num_keys = mask_rows.shape[1]
    num_queries = num_queries or num_keys
    block = QUERY_BLOCK if (mask_rows[..., 0] - mask_rows[..., -1]).mean() > SMALL_QUERY_BLOCK else SMALL_QUERY_BLOCK
    tiles = []
    for start in range(0, num_queries, block):
        end = min(start + block, num_queries)
        pairs = visible(mask_rows, np.arange(start, end))  # [batch, queries, keys]
        seen = np.flatnonzero(pairs.any((0, 1)))
        first, last = (seen[0], seen[-1] + 1) if seen.size else (0, 1)
        pairs = pairs[:, :, first:last]
        if (pairs == pairs[:1]).all():
            pairs = pairs[:1]
        bias = None
        if not pairs.all():
            bias = paddle.to_tensor(np.where(pairs, np.float32(0), np.float32(HIDDEN))[:, None])
        tiles.append(Tile(start, end, int(first), int(last), bias))
    return tiles


def visible(mask_rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """bool [batch, queries, keys]: the definition of the column form."""
    query = queries[None, :, None]
    if mask_rows.shape[-1] == 2:
        lower_start, upper_end = (mask_rows[:, None, :, i] for i in range(2))
        return (query < lower_start) & (query >= upper_end)
    lower_start, lower_end, upper_start, upper_end = (mask_rows[:, None, :, i] for i in range(4))
    hidden = ((query >= lower_start) & (query < lower_end)) | ((query >= upper_start) & (query < upper_end))
    return ~hidden


def flashmask_attention(
    query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor, tiles: list[Tile]
) -> paddle.Tensor:
    """softmax(query key^T / sqrt(head_dim) + mask) value.

    query [batch, queries, heads, head_dim], key and value [batch, keys, kv_heads, head_dim] -> [batch, queries, heads *
    head_dim]. The queries of one key-value head are worked on as rows of one product; keys and values are not repeated.
    """
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
    return paddle.matmul(F.softmax(scores, axis=-1).astype(value.dtype), value)


def _spread(bias, kv_heads: int, group: int) -> paddle.Tensor:
    """The bias in a shape that is added fast: all dims of the scores, or the last two where the batch shares it.

    Broadcasting over any other dims takes Paddle's CPU kernel ten times as long.
    """
    bias_batch, _, queries, keys = bias.shape
    if bias_batch == 1:
        return bias.transpose([0, 2, 1, 3]).expand([1, queries, group, keys]).reshape([queries * group, keys])
    bias = bias.unsqueeze(3).expand([bias_batch, kv_heads, queries, group, keys])
    return bias.reshape([bias_batch, kv_heads, queries * group, keys])
