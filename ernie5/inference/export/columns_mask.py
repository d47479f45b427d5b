"""Attention under a mask whose columns are an input of the program, as its numbers of queries and keys are."""

import paddle
import paddle.nn.functional as F

from ernie5.ops.attention import HIDDEN


class ColumnsMask:
    """Which keys each query sees, worked out by the program (`ops.attention.Mask` is, in NumPy, the definition).

    columns int32 [batch or 1, keys, 2]: key j is hidden from the queries i >= columns[j, 0] and from i < columns[j, 1].
    """

    def __init__(self, columns: paddle.Tensor, num_queries: paddle.Tensor | int):
        query = paddle.arange(num_queries, dtype="int32").reshape([1, -1, 1])
        start, end = columns[:, :, 0].unsqueeze(1), columns[:, :, 1].unsqueeze(1)
        visible = paddle.logical_and(query < start, query >= end)  # [batch or 1, queries, keys]
        self.bias = (1.0 - visible.astype("float32")) * HIDDEN
        self.sees = visible.any(-1, keepdim=True).astype("float32")  # [batch or 1, queries, 1]


def attend_under_columns(
    query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor, mask: ColumnsMask | None
) -> paddle.Tensor:
    """As `ops.attention.flashmask_attention`; without a mask every query sees every key.

    The mask is always spelled out: what Paddle's own attention takes for causal differs where a cache stands before the
    queries.
    """
    batch, num_queries, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    group = heads // kv_heads
    rows = (query * head_dim**-0.5).reshape([batch, num_queries, kv_heads, group, head_dim])
    rows = rows.transpose([0, 2, 3, 1, 4]).reshape([batch, kv_heads, -1, head_dim])  # heads of a group side by side
    key, value = key.transpose([0, 2, 1, 3]), value.transpose([0, 2, 1, 3])  # [batch, kv_heads, keys, head_dim]
    scores = paddle.matmul(rows, key, transpose_y=True).astype("float32")
    if mask is not None:
        shape = [batch, kv_heads, group, num_queries, -1]
        scores = scores.reshape(shape) + mask.bias.unsqueeze([1, 1])
        scores = scores.reshape([batch, kv_heads, group * num_queries, -1])
    output = paddle.matmul(F.softmax(scores, axis=-1).astype(value.dtype), value)
    output = output.reshape([batch, kv_heads, group, num_queries, head_dim]).transpose([0, 3, 1, 2, 4])
    output = output.reshape([batch, num_queries, heads * head_dim])
    return output if mask is None else output * mask.sees.astype(output.dtype)
