"""Pages of keys against the keys of each sequence in one piece."""

import numpy as np
import paddle
import pytest

from ernie5.layers.pages import PAGE_KEYS, PagedMask, Pages, Row, shared
from ernie5.modality.token_layout import TO_THE_END
from tests.paged import PagedRows

KV = 2, 4


def test_keys_come_back_in_the_order_of_their_sequences_from_wherever_they_lie():
    rows, rng = PagedRows(3, 150, [0], KV), np.random.default_rng(0)
    whole = [np.zeros([0, *KV], np.float32)] * 3
    for tokens in ([70, 1, 0], [3, 64, 130], [1, 1, 1]):
        mask = rows.mask(tokens)
        new = [rng.normal(size=[count, *KV]).astype(np.float32) for count in tokens]
        whole = [np.concatenate(pair) for pair in zip(whole, new, strict=True)]
        given = paddle.to_tensor(np.concatenate(new)[None])
        keys, values = rows.pages.layers[0].append(given, -given, mask)
        expected = np.concatenate([part for part, count in zip(whole, tokens, strict=True) if count])
        np.testing.assert_array_equal(keys[0].numpy(), expected)
        np.testing.assert_array_equal(values[0].numpy(), -expected)
        assert mask.num_queries == sum(tokens) and mask.num_keys == len(expected)


def test_mask_shows_each_token_the_keys_of_its_own_sequence_that_it_may_see():
    """Spelled out from the definition: the token with number n sees a key if from <= n < until."""
    rows, rng, seen = PagedRows(2, 80, [0], KV), np.random.default_rng(1), [[], []]
    for tokens in ([67, 2], [5, 4], [0, 3]):
        kept, given = list(rows.kept), []
        for row, count in enumerate(tokens):
            numbers = np.arange(kept[row], kept[row] + count)
            until = np.where(rng.random(count) < 0.3, numbers + rng.integers(0, 6, count), TO_THE_END)
            given.append((np.maximum(numbers - rng.integers(0, 4, count), 0), until))
            seen[row] += list(zip(*given[-1], strict=True))
        mask = rows.mask(tokens, given)
        found = mask.visible(0, mask.num_queries)[0]
        query = key = 0
        expected = np.zeros_like(found)
        for row, count in enumerate(tokens):
            if count:
                numbers = np.arange(kept[row], kept[row] + count)[:, None]
                start, end = np.array(seen[row]).T
                expected[query : query + count, key : key + len(start)] = (start <= numbers) & (numbers < end)
                query, key = query + count, key + len(start)
        np.testing.assert_array_equal(found, expected)


def test_numbers_count_on_where_pages_have_been_let_go():
    pages = Pages([0], KV, paddle.float32)
    pages.resize(1)
    pages.mark(Row(3, 0, 100, (0,)), np.array([100, 101, 102]), np.array([TO_THE_END, 104, 103]))
    pages.mark(Row(2, 3, 103, (0,)), np.array([103, 104]), TO_THE_END)
    found = PagedMask([Row(2, 3, 103, (0,))], pages).visible(0, 2)[0]
    np.testing.assert_array_equal(found, [[1, 1, 0, 1, 0], [1, 0, 0, 1, 1]])


def test_more_pages_leave_what_the_first_ones_hold():
    rows = PagedRows(1, PAGE_KEYS, [0, 3], KV)
    given = paddle.randn([1, 5, *KV])
    mask = rows.mask([5])
    for layer in rows.pages.layers.values():
        layer.append(given, given, mask)
    before = rows.pages.seen.copy()
    rows.pages.resize(4)
    assert len(rows.pages) == 4 and rows.pages.layers[3].keys.shape[0] == 4
    np.testing.assert_array_equal(rows.pages.seen[:1], before)
    np.testing.assert_array_equal(rows.pages.layers[3].keys[0, :5].numpy(), given[0].numpy())


@pytest.mark.parametrize("of", ["array", "tensor"])
def test_who_sees_a_key_is_one_memory_for_numpy_and_for_paddle(of):
    pages = Pages([0], KV, paddle.float32)
    pages.resize(2)
    pages.seen[1, 7] = 3, 9
    found = pages.seen_tensor.numpy() if of == "tensor" else pages.seen
    assert found[1, 7].tolist() == [3, 9] and found.sum() == 12


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_shared_memory_is_written_and_read_through_either_view(dtype):
    tensor, five = paddle.zeros([2, 3], dtype), paddle.full([1], 5, dtype)
    view = shared(tensor)
    view[1, 2] = five.numpy()[0]
    assert view.shape == (2, 3) and tensor.sum().item() == 5
    tensor.fill_(5)
    assert (view == five.numpy()).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_put_into_slots_is_taken_from_them_in_either_dtype(dtype):
    pages, slots = Pages([0], KV, getattr(paddle, dtype)), np.array([5, 64, 2])
    pages.resize(2)
    given, other = (paddle.randn([1, 3, *KV]).astype(dtype) for _ in range(2))
    pages.layers[0].put(slots, given, other)
    keys, values = pages.layers[0].take(slots[::-1].copy())
    assert keys.dtype == values.dtype == given.dtype
    np.testing.assert_array_equal(keys.numpy()[:, ::-1], given.numpy())
    np.testing.assert_array_equal(values.numpy()[:, ::-1], other.numpy())
