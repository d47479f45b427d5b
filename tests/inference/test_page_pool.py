"""Who holds which page, and which are found again."""

import numpy as np
import paddle
import pytest

from ernie5.inference.page_pool import OutOfPages, PagePool
from ernie5.inference.paged_sequence import PagedSequence, Places, records_of
from ernie5.layers.pages import PAGE_KEYS, Pages
from ernie5.modality.token_layout import TO_THE_END


@pytest.fixture
def pool() -> PagePool:
    return PagePool(Pages([0], (1, 2), paddle.float32), limit=6)


def read(sequence: PagedSequence, ids, until=TO_THE_END) -> None:
    """What reading words does to the pages."""
    sequence.reserve(len(ids))
    places = sequence.word_places(len(ids))
    places = places._replace(seen_until=np.full(len(ids), until, np.int64))
    sequence.add(len(ids), places, records_of(np.asarray(ids), places))
    sequence.was_read()


def records(ids) -> np.ndarray:
    numbers = np.arange(len(ids))
    positions = np.repeat(numbers[:, None].astype(np.float32), 3, 1)
    return records_of(np.asarray(ids), Places(positions, numbers, np.full(len(ids), TO_THE_END)))


def test_pages_go_round(pool):
    taken = [pool.take() for _ in range(6)]
    assert sorted(taken) == list(range(6)) and pool.available == 0 and pool.held == 6
    with pytest.raises(OutOfPages, match="all 6 pages of 64 tokens are in use"):
        pool.take()
    pool.release(taken[2])
    assert pool.take() == taken[2]


def test_equal_beginnings_are_found_and_others_are_not(pool):
    ids = np.arange(3 * PAGE_KEYS)
    first = PagedSequence(pool)
    read(first, ids)
    first.close()
    assert pool.held == 0 and pool.num_known == 3
    again = PagedSequence(pool)
    assert again.reuse(records(ids)) == 2 * PAGE_KEYS  # the last token is read anew, for what it says
    other = ids.copy()
    other[PAGE_KEYS + 3] += 1
    second = PagedSequence(pool)
    assert second.reuse(records(other)) == PAGE_KEYS and second.pages == again.pages[:1]
    assert pool.held == 2
    moved = records(ids)
    moved["position"][5] += 1
    assert PagedSequence(pool).reuse(moved) == 0


def test_a_page_found_twice_is_free_when_both_have_given_it_back(pool):
    first = PagedSequence(pool)
    read(first, np.arange(PAGE_KEYS + 1))
    second = PagedSequence(pool)
    assert second.reuse(records(np.arange(PAGE_KEYS + 1))) == PAGE_KEYS
    first.close()
    assert pool.held == 1
    second.close()
    assert pool.held == 0 and pool.available == 6


def test_the_page_that_nobody_has_held_for_the_longest_goes_first(pool):
    for start in range(6):
        sequence = PagedSequence(pool)
        read(sequence, 1000 * start + np.arange(PAGE_KEYS))
        sequence.close()
    assert pool.num_known == 6 and pool.available == 6
    pool.take()

    def is_known(start: int) -> bool:
        sequence = PagedSequence(pool)
        found = sequence.reuse(records(1000 * start + np.arange(PAGE_KEYS + 1)))
        sequence.close()
        return bool(found)

    assert [is_known(start) for start in range(6)] == [False, True, True, True, True, True]


def test_where_pages_run_out_nothing_has_changed(pool):
    sequence = PagedSequence(pool)
    read(sequence, np.arange(10))
    with pytest.raises(OutOfPages):
        sequence.reserve(6 * PAGE_KEYS)
    assert len(sequence.pages) == 1 and pool.available == 5


def test_a_word_taken_back_is_not_part_of_what_is_found_again(pool):
    sequence = PagedSequence(pool)
    read(sequence, np.arange(PAGE_KEYS - 1))
    read(sequence, [900])
    sequence.drop_last()
    read(sequence, [PAGE_KEYS - 1, 7])
    sequence.close()
    assert PagedSequence(pool).reuse(records(np.arange(PAGE_KEYS + 1))) == PAGE_KEYS
    assert PagedSequence(pool).reuse(records([*range(PAGE_KEYS - 1), 900, 7])) == 0


def test_hidden_pages_are_let_go_and_numbers_count_on(pool):
    sequence = PagedSequence(pool)
    read(sequence, np.arange(PAGE_KEYS))
    read(sequence, np.arange(PAGE_KEYS), until=2 * PAGE_KEYS)
    assert len(sequence.pages) == 1
    read(sequence, np.arange(3))
    assert (sequence.kept, sequence.number, len(sequence.pages)) == (PAGE_KEYS + 3, 2 * PAGE_KEYS + 3, 2)
    assert pool.held == 2
    sequence.close()
    assert pool.num_known == 1  # what was read while all of it was there


def test_a_page_cannot_be_given_back_twice(pool):
    page = pool.take()
    pool.release(page)
    with pytest.raises(AssertionError, match="twice"):
        pool.release(page)
