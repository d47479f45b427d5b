"""The unified sequence: one packed row, whatever it holds, and a batch of rows. NumPy only."""

from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np

IGNORE_INDEX = -100  # label of a position that predicts nothing


class TokenKind(IntEnum):
    """What a position of the sequence holds. The router never sees it."""

    TEXT = 0
    VISION_UNDERSTANDING = 1
    VISION_GENERATION = 2
    AUDIO = 3
    PADDING = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class UnifiedSequence:
    """One row; every array has `seq` as its first dim (or `[batch, seq]` once stacked by `stack`).

    `mask_rows` is the non-causal FlashMask column form (arXiv:2410.01359): key j is hidden from queries i >= rows[j, 0]
    and from queries i < rows[j, 1]; so a causal text token has `(end of its document, j)` and a token of a
    bidirectional group has `(end of its document, start of its group)`. With four columns (lower start, lower end,
    upper start, upper end) key j is hidden from lower-start <= i < lower-end and from upper-start <= i < upper-end.
    `labels[i]` is what position i predicts (text: the next id), also where its weight, `loss_weight[i]`, is 0.
    """

    input_ids: np.ndarray  # int64 [seq]; a placeholder id at media positions
    token_kind: np.ndarray  # int8 [seq], TokenKind
    position_ids: np.ndarray  # float32 [seq, 3]: t, h, w; from 0 in each document
    labels: np.ndarray  # int64 [seq]; IGNORE_INDEX where nothing is predicted
    loss_weight: np.ndarray  # float32 [seq]
    mask_rows: np.ndarray  # int32 [seq, 2 or 4]
    document_ids: np.ndarray  # int32 [seq]; 0, 1, ... in order; -1 at padding

    def __len__(self) -> int:
        return self.input_ids.shape[-1]

    def split(self, num_rows: int) -> list["UnifiedSequence"]:
        """Stacked rows [batch, seq] in parts of at most num_rows."""
        parts = range(0, len(self.input_ids), num_rows)
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return [UnifiedSequence(**{k: a[i : i + num_rows] for k, a in arrays.items()}) for i in parts]


def stack(rows: list[UnifiedSequence]) -> UnifiedSequence:
    """Rows of equal length -> one UnifiedSequence whose arrays are [batch, seq, ...]."""
    names = [f.name for f in fields(UnifiedSequence)]
    return UnifiedSequence(**{name: np.stack([getattr(row, name) for row in rows]) for name in names})
