"""Packing: nothing lost, nothing doubled, true labels across cuts, and walls that hold."""

import math
from collections import Counter

import numpy as np
import pytest

from ernie5.data.packing import Cursor, fill_row, pack_all
from ernie5.data.sequence import EncodedSample
from ernie5.errors import UserError
from ernie5.modality.unified import IGNORE_INDEX, TokenKind

PAD = 0


def sample(document, length):
    """Token k of document d has the id 1000 d + k + 1: every id is its own address."""
    ids = 1000 * document + 1 + np.arange(length)
    return EncodedSample(ids, np.ones(length, dtype=bool), num_bytes=length, origin=f"doc:{document}")


def documents(rng, count, longest):
    return [sample(d, int(length)) for d, length in enumerate(rng.integers(2, longest, count))]


def pack(samples, max_seq_len, too_long="split", packing=True):
    cursor, rows = Cursor(), []
    get = dict(enumerate(samples)).get
    while (row := fill_row(cursor, get, max_seq_len, PAD, too_long, packing)) is not None:
        rows.append(row)
    return rows


@pytest.fixture(params=[(1, 30), (7, 5), (16, 40), (64, 20)], ids=lambda p: f"row{p[0]}_doc{p[1]}")
def packed(request):
    max_seq_len, longest = request.param
    samples = documents(np.random.default_rng(0), 25, longest)
    return samples, pack(samples, max_seq_len)


def test_every_token_after_the_first_is_predicted_once(packed):
    samples, rows = packed
    predicted = Counter(label for row in rows for label in row.labels.tolist() if label != IGNORE_INDEX)
    assert predicted == Counter(token for s in samples for token in s.ids[1:].tolist())


def test_every_label_is_the_token_after_the_input_also_at_cuts(packed):
    for row in packed[1]:
        known = row.labels != IGNORE_INDEX
        assert (row.labels[known] == row.input_ids[known] + 1).all()


def test_only_padding_and_document_ends_predict_nothing(packed):
    samples, rows = packed
    ends = {int(s.ids[-1]) for s in samples}
    for row in rows:
        silent = row.input_ids[(row.labels == IGNORE_INDEX) & (row.token_kind == TokenKind.TEXT)]
        assert set(silent.tolist()) <= ends
        assert (row.loss_weight == (row.labels != IGNORE_INDEX)).all()


def test_rows_are_full_but_the_last(packed):
    for row in packed[1][:-1]:
        assert (row.token_kind == TokenKind.TEXT).all()


def test_walls_let_a_position_see_its_own_part_up_to_itself(packed):
    for row in packed[1]:
        seq = len(row)
        for query in range(seq):
            visible = {key for key in range(seq) if row.mask_rows[key, 1] <= query < row.mask_rows[key, 0]}
            if row.token_kind[query] == TokenKind.PADDING:
                expected = {query}
            else:  # the ids tell the document, without a look at document_ids
                document = row.input_ids[query] // 1000
                expected = {
                    key
                    for key in range(query + 1)
                    if row.token_kind[key] == TokenKind.TEXT and row.input_ids[key] // 1000 == document
                }
            assert visible == expected


def test_positions_count_from_0_in_every_part(packed):
    for row in packed[1]:
        for document in range(row.document_ids.max() + 1):
            inside = row.document_ids == document
            expected = np.arange(inside.sum(), dtype=np.float32)
            assert all((row.position_ids[inside, axis] == expected).all() for axis in range(3))


def test_padding_is_marked_in_every_array():
    (row,) = pack([sample(1, 3)], 5)
    padding = slice(3, 5)
    assert (row.input_ids[padding] == PAD).all() and (row.token_kind[padding] == TokenKind.PADDING).all()
    assert (row.labels[padding] == IGNORE_INDEX).all() and (row.loss_weight[padding] == 0).all()
    assert (row.document_ids[padding] == -1).all() and (row.position_ids[padding] == 0).all()


def test_arrays_have_the_types_of_the_contract():
    (row,) = pack([sample(1, 3)], 5)
    types = {name: getattr(row, name).dtype.name for name in row.__dataclass_fields__ if name != "media"}
    assert types == {
        "input_ids": "int64",
        "token_kind": "int8",
        "position_ids": "float32",
        "labels": "int64",
        "loss_weight": "float32",
        "mask_rows": "int32",
        "document_ids": "int32",
    }


def test_weight_is_the_loss_of_the_target_not_of_the_input():
    ids = np.array([1, 2, 3, 4])
    (row,) = pack([EncodedSample(ids, np.array([False, False, True, False]), 1, "a")], 4)
    assert row.labels.tolist() == [2, 3, 4, IGNORE_INDEX]
    assert row.loss_weight.tolist() == [0, 1, 0, 0]


def test_weight_at_a_cut_is_that_of_the_next_rows_first_token():
    ids = np.array([1, 2, 3, 4])
    first, second = pack([EncodedSample(ids, np.array([False, False, True, True]), 1, "a")], 2)
    assert (first.labels.tolist(), first.loss_weight.tolist()) == ([2, 3], [0, 1])
    assert (second.labels.tolist(), second.loss_weight.tolist()) == ([4, IGNORE_INDEX], [1, 0])


def test_end_mark_already_predicted_takes_no_row_of_its_own():
    assert len(pack([sample(1, 5)], 4)) == 1


def test_error_mode_starts_a_new_row_and_pads():
    rows = pack([sample(1, 3), sample(2, 3), sample(3, 2)], 5, "error")
    assert [row.input_ids.tolist() for row in rows] == [[1001, 1002, 1003, 0, 0], [2001, 2002, 2003, 3001, 3002]]


def test_without_packing_a_row_has_one_sample_or_a_run_of_one():
    rows = pack([sample(1, 3), sample(2, 0), sample(3, 8), sample(4, 2)], 5, packing=False)
    assert [row.input_ids[row.document_ids >= 0].tolist() for row in rows] == [
        [1001, 1002, 1003],
        [3001, 3002, 3003, 3004, 3005],
        [3006, 3007, 3008],
        [4001, 4002],
    ]
    assert all(row.document_ids.max() == 0 and len(row) == 5 for row in rows)
    assert rows[1].labels[4] == 3006


def test_error_mode_refuses_a_sample_longer_than_a_row():
    with pytest.raises(UserError, match="doc:2: has 6 tokens, but max_seq_len of the stage is 5"):
        pack([sample(1, 3), sample(2, 6)], 5, "error")


def test_empty_sample_leaves_no_trace():
    empty = EncodedSample(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool), 0, "")
    (row,) = pack([sample(1, 2), empty, sample(2, 2)], 4)
    assert row.document_ids.tolist() == [0, 0, 1, 1]


def test_evaluation_rows_are_those_of_training_with_all_bytes():
    samples = documents(np.random.default_rng(1), 20, 30)
    evaluated = list(pack_all(samples, 16, PAD))
    assert all((a.row.labels == b.labels).all() for a, b in zip(evaluated, pack(samples, 16), strict=True))
    assert sum(e.num_bytes for e in evaluated) == sum(s.num_bytes for s in samples)


@pytest.mark.parametrize("limit", [1, 40, 41, 100, 10_000])
def test_limited_evaluation_reads_whole_documents_and_their_bytes(limit):
    samples = documents(np.random.default_rng(2), 20, 30)
    evaluated = list(pack_all(iter(samples), 16, PAD, max_tokens=limit))
    ends = np.cumsum([len(s) for s in samples])
    count = max(1, int((ends <= limit).sum()))
    assert sum(e.num_bytes for e in evaluated) == sum(s.num_bytes for s in samples[:count])
    assert sum((e.row.labels != IGNORE_INDEX).sum() for e in evaluated) == sum(len(s) - 1 for s in samples[:count])


def test_bits_per_byte_of_a_uniform_guess_is_the_closed_form():
    samples = [EncodedSample(np.arange(9), np.ones(9, dtype=bool), num_bytes=7, origin="a")] * 3
    rows = list(pack_all(samples, 5, PAD))
    nll = sum(float(e.row.loss_weight.sum()) * math.log(256) for e in rows)
    assert nll / math.log(2) / sum(e.num_bytes for e in rows) == pytest.approx(8 * 8 / 7)
