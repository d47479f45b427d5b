"""Rows, stacked and cut again."""

from dataclasses import fields, replace

import numpy as np
import pytest

from ernie5.modality.unified import UnifiedSequence, VisualMedium, stack
from tests.sequences import packed_row

ROWS = [packed_row([[i * 10 + 1, i * 10 + 2], [i * 10 + 3]], 4) for i in range(5)]


def assert_same(first: UnifiedSequence, second: UnifiedSequence) -> None:
    for field in fields(UnifiedSequence):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))


def test_length_of_a_row_and_of_stacked_rows_is_that_of_the_sequence():
    assert len(ROWS[0]) == len(stack(ROWS)) == 4


def test_stack_keeps_every_row_and_its_dtypes():
    stacked = stack(ROWS)
    names = [field.name for field in fields(UnifiedSequence) if field.name != "media"]
    for i, row in enumerate(ROWS):
        assert_same(UnifiedSequence(**{name: getattr(stacked, name)[i] for name in names}), row)
    assert all(getattr(stacked, name).dtype == getattr(ROWS[0], name).dtype for name in names)


def test_media_go_with_their_rows():
    medium = VisualMedium(pixels=np.zeros([1, 2, 2, 3], np.uint8), start=1, length=2)
    rows = [replace(row, media=(medium,) * (i % 2)) for i, row in enumerate(ROWS)]
    stacked = stack(rows)
    assert [medium.row for medium in stacked.media] == [1, 3]
    assert [[medium.row for medium in part.media] for part in stacked.split(2)] == [[1], [1], []]


@pytest.mark.parametrize("num_rows, sizes", [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_split_cuts_in_order_and_leaves_the_rest_to_the_last(num_rows, sizes):
    parts = stack(ROWS).split(num_rows)
    assert [len(part.input_ids) for part in parts] == sizes
    start = 0
    for part, size in zip(parts, sizes, strict=True):
        assert_same(part, stack(ROWS[start : start + size]))
        start += size
