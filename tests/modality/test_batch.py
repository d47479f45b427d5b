"""A batch's targets on rows written out by hand."""

import dataclasses

import numpy as np

from ernie5.modality.batch import make_batch, masked_targets, mtp_targets
from ernie5.modality.unified import IGNORE_INDEX, stack
from tests.sequences import packed_row

X = IGNORE_INDEX
DOCUMENTS = [[11, 12, 13, 14], [21, 22], [31, 32, 33]]


def row(length: int = 11, **changes):
    return stack([dataclasses.replace(packed_row(DOCUMENTS, length), **changes)])


def test_next_token_targets_stop_at_the_end_of_each_document():
    assert make_batch(row()).labels.tolist() == [[12, 13, 14, X, 22, X, 32, 33, X, X, X]]


def test_second_next_targets_stop_two_tokens_before_each_wall():
    batch = make_batch(row())
    assert batch.mtp_labels.tolist() == [[13, 14, X, X, X, X, 33, X, X, X, X]]
    assert batch.mtp_loss_weight.tolist() == [[1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0]]


def test_prediction_block_is_given_the_next_id_and_zero_where_there_is_none():
    assert make_batch(row()).next_ids.tolist() == [[12, 13, 14, 0, 22, 0, 32, 33, 0, 0, 0]]


def test_a_document_cut_by_the_row_predicts_across_the_cut_one_token_ahead():
    cut = packed_row([[11, 12, 13]])
    labels = np.array([12, 13, 14])  # 14 stands in the next row
    batch = make_batch(stack([dataclasses.replace(cut, labels=labels, loss_weight=np.ones(3, np.float32))]))
    assert batch.labels.tolist() == [[12, 13, 14]]
    assert batch.next_ids.tolist() == [[12, 13, 14]]
    assert batch.mtp_labels.tolist() == [[13, 14, X]]


def test_targets_without_weight_are_ignored_but_still_fed_to_the_prediction_block():
    weight = np.array([0, 0, 1, 0, 1, 0, 0.5, 1, 0, 0, 0], np.float32)
    batch = make_batch(row(loss_weight=weight))
    assert batch.labels.tolist() == [[X, X, 14, X, 22, X, 32, 33, X, X, X]]
    assert batch.loss_weight.tolist() == [weight.tolist()]
    assert batch.next_ids.tolist() == [[12, 13, 14, 0, 22, 0, 32, 33, 0, 0, 0]]
    assert batch.mtp_labels.tolist() == [[X, 14, X, X, X, X, 33, X, X, X, X]]


def test_second_next_target_weighs_as_the_token_it_predicts():
    weight = np.array([1, 0.25, 0.5, 0, 1, 0, 1, 2, 0, 0, 0], np.float32)
    assert mtp_targets(row(loss_weight=weight))[1].tolist() == [[0.25, 0.5, 0, 0, 0, 0, 2, 0, 0, 0, 0]]


def test_masked_targets_need_a_label_and_a_weight():
    labels, weight = masked_targets(np.array([5, 5, X, X]), np.array([0.5, 0, 0.5, 0], np.float32))
    assert labels.tolist() == [5, X, X, X] and weight.tolist() == [0.5, 0, 0, 0]


def test_batch_has_the_dtypes_the_model_takes():
    batch = make_batch(row())
    own = [name for name in batch._fields if name not in ("vision", "audio")]
    dtypes = {name: str(getattr(batch, name).dtype).removeprefix("paddle.") for name in own}
    integers = dict.fromkeys(("input_ids", "labels", "next_ids", "mtp_labels"), "int64")
    floats = dict.fromkeys(("position_ids", "loss_weight", "mtp_loss_weight"), "float32")
    assert dtypes == integers | floats | {"mask_rows": "int32"}
