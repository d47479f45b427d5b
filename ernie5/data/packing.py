"""Packs documents into rows of one length, with walls between them."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from ernie5.data.sequence import EncodedSample
from ernie5.errors import UserError
from ernie5.modality.unified import IGNORE_INDEX, SoundMedium, TokenKind, UnifiedSequence, VisualMedium


class Part(NamedTuple):
    """Tokens start..end of a sample, placed in one row."""

    sample: EncodedSample
    start: int
    end: int


@dataclass
class Cursor:
    """Where packing stands: the next token to place is token `offset` of sample `number`."""

    number: int = 0
    offset: int = 0


def fill_row(
    cursor: Cursor,
    get: Callable[[int], EncodedSample | None],
    max_seq_len: int,
    pad_id: int,
    too_long: Literal["split", "error"],
    packing: bool = True,
) -> UnifiedSequence | None:
    """The next row, and moves the cursor behind it; None when there is nothing left.

    `get(number)` is the sample of that number, empty where it is left out, None after the last. With `split`, a sample
    goes on in the next row where the row ends; with `error`, and where it holds media, it starts a new row instead, and
    one longer than a row raises UserError. Without `packing` there is one part in a row.
    """
    parts: list[Part] = []
    space = max_seq_len
    while space and (packing or not parts) and (sample := get(cursor.number)) is not None:
        length = len(sample)
        if length > space and (too_long == "error" or sample.places is not None):
            if length > max_seq_len:
                remedy = "raise it" + (", or set data.too_long: split" if sample.places is None else "")
                raise UserError(
                    f"{sample.origin}: has {length} tokens, but max_seq_len of the stage is {max_seq_len}: {remedy}"
                )
            break
        end = min(cursor.offset + space, length)
        if end:
            parts.append(Part(sample, cursor.offset, end))
            space -= end - cursor.offset
        # The very last token predicts nothing and is predicted at the cut before it: alone it is not worth a place.
        if end < length - 1:
            cursor.offset = end
        else:
            cursor.number, cursor.offset = cursor.number + 1, 0
    return build_row(parts, max_seq_len, pad_id) if parts else None


def is_too_long(sample: EncodedSample, max_seq_len: int) -> bool:
    """Whether no row can hold it: media are not cut."""
    return sample.places is not None and len(sample) > max_seq_len


def build_row(parts: Iterable[Part], max_seq_len: int, pad_id: int) -> UnifiedSequence:
    """Parts in order -> one row, padded at its end (UnifiedSequence says what each array holds).

    A part sees only itself and its positions count from 0. A padding position sees only itself, so that no softmax
    is empty. The last position of a part still predicts the true next token, which may stand in the next row.
    """
    place = np.arange(max_seq_len)
    input_ids = np.full(max_seq_len, pad_id, dtype=np.int64)
    labels = np.full(max_seq_len, IGNORE_INDEX, dtype=np.int64)
    loss_weight = np.zeros(max_seq_len, dtype=np.float32)
    document_ids = np.full(max_seq_len, -1, dtype=np.int32)
    positions = np.zeros([max_seq_len, 3], dtype=np.float32)
    kinds = np.full(max_seq_len, TokenKind.PADDING, dtype=np.int8)
    media: list[VisualMedium | SoundMedium] = []
    mask_rows = np.stack([place + 1, place], axis=1).astype(np.int32)
    first = 0
    for document, (sample, start, end) in enumerate(parts):
        last = first + end - start
        targets = sample.ids[start + 1 : end + 1]  # one fewer than tokens at the end of the sample
        input_ids[first:last] = sample.ids[start:end]
        labels[first : first + len(targets)] = targets
        loss_weight[first : first + len(targets)] = sample.loss[start + 1 : end + 1]
        document_ids[first:last] = document
        if sample.places is None:
            positions[first:last] = place[: last - first, None]
            kinds[first:last] = TokenKind.TEXT
            mask_rows[first:last, 0] = last
        else:
            places = sample.places
            positions[first:last] = places.positions
            kinds[first:last] = places.kinds
            mask_rows[first:last, 0] = np.minimum(places.hidden_from, last - first) + first
            mask_rows[first:last, 1] = places.group_start + first
            media += [replace(medium, start=medium.start + first) for medium in places.media]
        first = last
    return UnifiedSequence(
        input_ids=input_ids,
        token_kind=kinds,
        position_ids=positions,
        labels=labels,
        loss_weight=loss_weight,
        mask_rows=mask_rows,
        document_ids=document_ids,
        media=tuple(media),
    )


class EvaluationRow(NamedTuple):
    """A row of the validation data, with the bytes of the documents that end in it."""

    row: UnifiedSequence
    num_bytes: int


def pack_all(
    samples: Iterable[EncodedSample], max_seq_len: int, pad_id: int, max_tokens: int = 0
) -> Iterator[EvaluationRow]:
    """Rows in which every token of every document is predicted once; documents longer than a row are split.

    With `max_tokens`, stops before the document that would go past them, but never before the first: whole documents
    only, so that sum(weight * nll) / ln 2 / sum(num_bytes) is the bits per byte of what was read.
    """
    reader = _Reader(samples, max_tokens or math.inf)
    cursor = Cursor()
    while True:
        first = cursor.number
        row = fill_row(cursor, reader.get, max_seq_len, pad_id, "split")
        if row is None:
            return
        yield EvaluationRow(row, reader.drop_before(cursor.number, first))


class _Reader:
    """Samples by number, read once and in order; holds those between the cursor and the end of the row."""

    def __init__(self, samples: Iterable[EncodedSample], max_tokens: float):
        self._samples, self._left = iter(samples), max_tokens
        self._held: dict[int, EncodedSample] = {}
        self._next = 0

    def get(self, number: int) -> EncodedSample | None:
        if number == self._next:
            sample = next(self._samples, None)
            if sample is None or (len(sample) > self._left and self._next):
                self._samples = iter(())
                return None
            self._left -= len(sample)
            self._held[number] = sample
            self._next += 1
        return self._held[number]

    def drop_before(self, number: int, first: int) -> int:
        """Forgets samples first..number-1, whose last token is placed; returns their bytes."""
        return sum(self._held.pop(i).num_bytes for i in range(first, number))
