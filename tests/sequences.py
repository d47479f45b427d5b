"""Unified sequences made by hand, independently of the data pipeline."""

from collections.abc import Sequence

import numpy as np

from ernie5.modality.unified import IGNORE_INDEX, TokenKind, UnifiedSequence, stack


def packed_row(documents: Sequence[Sequence[int]], length: int = 0) -> UnifiedSequence:
    """Documents one behind the other, walls between them, padded to `length` with id 0; every token carries loss."""
    length = length or sum(map(len, documents))
    place = np.arange(length)
    input_ids, labels = np.zeros(length, np.int64), np.full(length, IGNORE_INDEX, np.int64)
    document_ids, positions = np.full(length, -1, np.int32), np.zeros(length, np.float32)
    mask_rows = np.stack([place + 1, place], -1).astype(np.int32)
    start = 0
    for number, ids in enumerate(documents):
        end = start + len(ids)
        input_ids[start:end], labels[start : end - 1] = ids, ids[1:]
        document_ids[start:end], positions[start:end] = number, np.arange(len(ids))
        mask_rows[start:end, 0] = end
        start = end
    return UnifiedSequence(
        input_ids=input_ids,
        token_kind=np.where(document_ids < 0, TokenKind.PADDING, TokenKind.TEXT).astype(np.int8),
        position_ids=np.repeat(positions[:, None], 3, axis=1),
        labels=labels,
        loss_weight=(labels != IGNORE_INDEX).astype(np.float32),
        mask_rows=mask_rows,
        document_ids=document_ids,
    )


def random_documents(lengths: Sequence[int], vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Documents of random ids, 1 .. vocab_size - 1."""
    rng = np.random.default_rng(seed)
    return [rng.integers(1, vocab_size, length).tolist() for length in lengths]


def packed_batch(rows: Sequence[Sequence[Sequence[int]]], length: int = 0) -> UnifiedSequence:
    """Rows of documents, stacked to [batch, seq]."""
    return stack([packed_row(documents, length) for documents in rows])
