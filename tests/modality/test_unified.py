"""Rows, stacked and cut again."""

from dataclasses import fields

import numpy as np
import pytest

from ernie5.modality.unified import UnifiedSequence, stack
from tests.sequences import packed_row

ROWS = [packed_row([[i * 10 + 1, i * 10 + 2], [i * 10 + 3]], 4) for i in range(5)]


def assert_same(first: UnifiedSequence, second: UnifiedSequence) -> None:
    for field in fields(UnifiedSequence):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))


def test_length_of_a_row_and_of_stacked_rows_is_that_of_the_sequence():
    assert len(ROWS[0]) == len(stack(ROWS)) == 4


def test_stack_keeps_every_row_and_its_dtypes():
    stacked = stack(ROWS)
    for i, row in enumerate(ROWS):
        assert_same(UnifiedSequence(**{f.name: getattr(stacked, f.name)[i] for f in fields(UnifiedSequence)}), row)
    assert all(getattr(stacked, f.name).dtype == getattr(ROWS[0], f.name).dtype for f in fields(UnifiedSequence))


@pytest.mark.parametrize("num_rows, sizes", [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_split_cuts_in_order_and_leaves_the_rest_to_the_last(num_rows, sizes):
    parts = stack(ROWS).split(num_rows)
    assert [len(part.input_ids) for part in parts] == sizes
    start = 0
    for part, size in zip(parts, sizes, strict=True):
        assert_same(part, stack(ROWS[start : start + size]))
        start += size
