"""Attention by tiles against a dense softmax in NumPy whose mask is spelled out pair by pair."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ernie5.ops import attention
from ernie5.ops.attention import Mask, flashmask_attention
from tests.tolerances import tolerance


def dense(query, key, value, visible) -> np.ndarray:
    """[batch, queries, heads * head_dim] in float64, pair by pair; visible bool [batch, queries, keys]."""
    batch, num_queries, heads, head_dim = query.shape
    group = heads // key.shape[2]
    output = np.zeros([batch, num_queries, heads, head_dim])
    for b, i, h in np.ndindex(batch, num_queries, heads):
        seen = visible[b, i]
        if not seen.any():
            continue
        scores = key[b, seen, h // group].astype(np.float64) @ query[b, i, h] / np.sqrt(head_dim)
        weights = np.exp(scores - scores.max())
        output[b, i, h] = weights @ value[b, seen, h // group] / weights.sum()
    return output.reshape([batch, num_queries, heads * head_dim])


def visible_pairs(mask_rows: np.ndarray, num_queries: int, causal: bool = False) -> np.ndarray:
    """The column form read literally, a pair at a time (arXiv:2410.01359)."""
    batch, num_keys, columns = mask_rows.shape
    visible = np.zeros([batch, num_queries, num_keys], bool)
    for b, i, j in np.ndindex(batch, num_queries, num_keys):
        rows = mask_rows[b, j]
        if columns == 1:
            hidden = i >= rows[0]
        elif columns == 2:
            hidden = rows[0] <= i < rows[1] if causal else i >= rows[0] or i < rows[1]
        else:
            hidden = rows[0] <= i < rows[1] or rows[2] <= i < rows[3]
        visible[b, i, j] = not hidden and not (causal and j > i + num_keys - num_queries)
    return visible


def random_states(batch, num_queries, num_keys, heads=4, kv_heads=2, head_dim=8):
    shapes = [num_queries, heads], [num_keys, kv_heads], [num_keys, kv_heads]
    return [np.random.normal(size=[batch, *shape, head_dim]).astype(np.float32) for shape in shapes]


def run(states, mask: Mask) -> np.ndarray:
    return flashmask_attention(*map(paddle.to_tensor, states), mask).numpy()


def square(rows: np.ndarray, causal: bool = False) -> Mask:
    return Mask(rows.shape[1], rows.shape[1], rows, causal)


def causal_rows(seq: int) -> np.ndarray:
    return np.stack([np.full(seq, seq), np.arange(seq)], -1)[None].astype(np.int32)


def packed_rows(*lengths: int) -> np.ndarray:
    ends = np.repeat(np.cumsum(lengths), lengths)
    return np.stack([ends, np.arange(ends.size)], -1)[None].astype(np.int32)


def grouped_rows(*groups: int) -> np.ndarray:
    """One document whose groups are bidirectional inside."""
    starts = np.repeat(np.cumsum(groups) - groups, groups)
    return np.stack([np.full(starts.size, starts.size), starts], -1)[None].astype(np.int32)


def windowed_rows(frames: int, size: int, window: int, dropped: int) -> np.ndarray:
    """Four columns: frames of `size` tokens, bidirectional inside, each seeing `window` frames back; one is dropped,
    that is, hidden from the frames behind it."""
    frame = np.repeat(np.arange(frames), size)
    seq = frame.size
    lower_start = np.where(frame == dropped, (frame + 1) * size, np.minimum((frame + window + 1) * size, seq))
    return np.stack([lower_start, np.full(seq, seq), np.zeros(seq, int), frame * size], -1)[None].astype(np.int32)


MASKS = {
    "causal": causal_rows(37),
    "packed": packed_rows(5, 1, 20, 11),
    "bidirectional groups": grouped_rows(3, 9, 1, 24),
    "windowed with a dropped frame": windowed_rows(frames=9, size=4, window=2, dropped=3),
    "each row its own": np.concatenate([packed_rows(30, 7), grouped_rows(10, 20, 7), causal_rows(37)]),
}


@pytest.fixture(params=[128, 16, 5], ids="block_{}".format)
def query_block(request, monkeypatch) -> int:
    """Tiles larger than the sequence, and smaller ones that do not divide it."""
    for name in ("QUERY_BLOCK", "SMALL_QUERY_BLOCK"):
        monkeypatch.setattr(attention, name, request.param)
    return request.param


@pytest.mark.parametrize("name", MASKS)
def test_attention_equals_dense_softmax(name, query_block):
    mask_rows = MASKS[name]
    batch, seq, _ = mask_rows.shape
    states = random_states(batch, seq, seq)
    expected = dense(*states, visible_pairs(mask_rows, seq))
    np.testing.assert_allclose(run(states, square(mask_rows)), expected, **tolerance("float32"))


def causal_forms(seq: int) -> dict[str, np.ndarray]:
    """Columns that say one thing more each on top of a causal mask."""
    start = np.minimum(np.arange(seq) + 9, seq)
    end = np.minimum(start + np.arange(seq) % 7, seq)
    rows = {1: [start], 2: [start, end], 4: [start, end, start * 0 + 3, start * 0 + 5]}
    return {f"{number} columns": np.stack(columns, -1)[None].astype(np.int32) for number, columns in rows.items()}


FORMS = [("1 columns", False), ("1 columns", True), ("2 columns", False), ("2 columns", True), ("4 columns", False)]


@pytest.mark.parametrize("name, causal", FORMS)
def test_every_number_of_columns_is_read_as_it_is_defined(name, causal, query_block):
    rows = causal_forms(37)[name]
    states = random_states(2, 37, 37)
    expected = dense(*states, np.repeat(visible_pairs(rows, 37, causal), 2, axis=0))
    np.testing.assert_allclose(run(states, square(rows, causal)), expected, **tolerance("float32"))


def test_four_columns_are_not_causal():
    with pytest.raises(ValueError, match="one or two columns"):
        square(causal_forms(5)["4 columns"], causal=True)


def test_without_columns_every_query_sees_every_key(query_block):
    states = random_states(2, 11, 37)
    expected = dense(*states, np.ones([2, 11, 37], bool))
    np.testing.assert_allclose(run(states, Mask(11, 37)), expected, **tolerance("float32"))


def test_one_mask_serves_a_whole_batch(query_block):
    states = random_states(3, 20, 20)
    expected = dense(*states, np.repeat(visible_pairs(packed_rows(12, 8), 20), 3, axis=0))
    rows = packed_rows(12, 8)
    for mask in (square(rows), square(np.repeat(rows, 3, axis=0))):
        np.testing.assert_allclose(run(states, mask), expected, **tolerance("float32"))


@pytest.mark.parametrize("num_queries, num_keys", [(1, 1), (1, 23), (4, 23), (23, 23)])
def test_a_causal_mask_aligns_the_last_query_with_the_last_key(num_queries, num_keys, query_block):
    states = random_states(2, num_queries, num_keys)
    visible = np.tril(np.ones([num_queries, num_keys], bool), num_keys - num_queries)
    expected = dense(*states, np.stack([visible] * 2))
    np.testing.assert_allclose(run(states, Mask(num_queries, num_keys, causal=True)), expected, **tolerance("float32"))


@pytest.mark.parametrize("heads, kv_heads", [(1, 1), (6, 1), (6, 2), (6, 6)])
def test_each_group_of_queries_reads_its_own_keys(heads, kv_heads):
    states = random_states(1, 9, 9, heads, kv_heads)
    expected = dense(*states, visible_pairs(causal_rows(9), 9))
    np.testing.assert_allclose(run(states, Mask(9, 9, causal=True)), expected, **tolerance("float32"))


@pytest.mark.parametrize("blind", [slice(3, 4), slice(0, 12)], ids=["one query", "all queries"])
def test_a_query_that_sees_nothing_gives_zero_and_no_gradient(blind, query_block):
    seq = 12
    rows = np.zeros([1, seq, 4], np.int32)
    rows[..., 0], rows[..., 1] = blind.start, blind.stop  # hidden from the blind queries, visible to all others
    states = random_states(1, seq, seq)
    tensors = [paddle.to_tensor(state, stop_gradient=False) for state in states]
    output = flashmask_attention(*tensors, square(rows))
    expected = dense(*states, visible_pairs(rows, seq))
    np.testing.assert_allclose(output.numpy(), expected, **tolerance("float32"))
    output[:, blind].sum().backward()
    assert not any(tensor.grad.numpy().any() for tensor in tensors)


def test_hidden_keys_may_hold_anything():
    mask_rows = packed_rows(10, 10)
    states = random_states(1, 20, 20)
    other = [states[0], *(state.copy() for state in states[1:])]
    for state in other[1:]:
        state[:, 10:] = 1e6
    first, second = (run(s, square(mask_rows))[:, :10] for s in (states, other))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", MASKS)
def test_gradients_equal_those_of_dense_attention(name, query_block):
    mask_rows = MASKS[name]
    batch, seq, _ = mask_rows.shape
    states = random_states(batch, seq, seq)
    cotangent = paddle.randn([batch, seq, 32])
    bias = paddle.to_tensor(np.where(visible_pairs(mask_rows, seq), 0, -np.inf)[:, None], "float32")

    def dense_attention(query, key, value):
        key, value = (paddle.repeat_interleave(x, 2, axis=2) for x in (key, value))
        scores = paddle.einsum("bihd,bjhd->bhij", query, key) / 8**0.5 + bias
        return paddle.einsum("bhij,bjhd->bihd", F.softmax(scores, -1), value).reshape([batch, seq, 32])

    gradients = []
    for compute in (lambda *s: flashmask_attention(*s, square(mask_rows)), dense_attention):
        tensors = [paddle.to_tensor(state, stop_gradient=False) for state in states]
        (compute(*tensors) * cotangent).sum().backward()
        gradients.append([tensor.grad.numpy() for tensor in tensors])
    for ours, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=3e-6)


def test_tiles_leave_out_the_keys_behind_a_wall(monkeypatch):
    monkeypatch.setattr(attention, "SMALL_QUERY_BLOCK", 8)
    tiles = square(packed_rows(8, 16)).tiles
    spans = [(tile.query_start, tile.query_end, tile.key_start, tile.key_end) for tile in tiles]
    assert spans == [(0, 8, 0, 8), (8, 16, 8, 16), (16, 24, 8, 24)]


def test_a_tile_that_sees_all_its_keys_has_no_bias():
    assert [tile.bias for tile in Mask(1, 9, causal=True).tiles] == [None]


PARTS = {
    "runs": (np.r_[5:12, 25:32], np.r_[0:20, 26:30]),
    "one run": (np.arange(9, 30), np.arange(37)),
    "here and there": (np.array([0, 3, 17, 18, 36]), np.array([2, 3, 16, 30, 36])),
    "all": (np.arange(37), np.arange(37)),
}
WHOLE = {name: square(rows) for name, rows in MASKS.items() if rows.shape[1] == 37}
WHOLE |= {f"{name}, causal {causal}": square(causal_forms(37)[name], causal) for name, causal in FORMS}
WHOLE |= {"none": Mask(37, 37), "causal without columns": Mask(37, 37, causal=True)}
WHOLE |= {"windowed": square(windowed_rows(frames=10, size=4, window=2, dropped=3)[:, :37])}
WHOLE |= {"a cache before the queries": Mask(37, 50, causal=True)}


@pytest.mark.parametrize("kept", PARTS)
@pytest.mark.parametrize("name", WHOLE)
def test_a_part_shows_its_queries_what_they_see_of_its_keys(name, kept):
    mask, (queries, keys) = WHOLE[name], PARTS[kept]
    part = mask.part(queries, keys)
    assert (part.num_queries, part.num_keys) == (len(queries), len(keys))
    expected = mask.visible(0, 37)[:, queries][:, :, keys]
    np.testing.assert_array_equal(part.visible(0, len(queries)), expected)


@pytest.mark.parametrize("name", WHOLE)
def test_a_key_is_seen_if_any_query_sees_it(name):
    part = WHOLE[name].part(PARTS["runs"][0], np.arange(WHOLE[name].num_keys))
    np.testing.assert_array_equal(part.seen(), part.visible(0, 14).any(1))


def test_a_key_hidden_by_both_pairs_of_columns_together_is_not_seen():
    rows = np.array([[[0, 5, 3, 9], [0, 5, 5, 9], [0, 5, 6, 9], [7, 7, 0, 9], [2, 9, 1, 1]]], np.int32)
    assert Mask(9, 5, rows).seen().tolist() == [[False, False, True, False, True]]
