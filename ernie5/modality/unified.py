"""The unified sequence: one packed row, whatever it holds, and a batch of rows. NumPy only."""

from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Literal

import numpy as np

IGNORE_INDEX = -100  # label of a position that predicts nothing


class TokenKind(IntEnum):
    """What a position of the sequence holds. The router never sees it."""

    TEXT = 0
    VISION_UNDERSTANDING = 1
    VISION_GENERATION = 2
    AUDIO = 3
    PADDING = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VisualMedium:
    """A picture or a film of a row: what it shows and where its tokens stand."""

    pixels: np.ndarray  # uint8 [frames, height, width, 3]
    start: int  # place of its first token, behind BOI or BOV
    length: int  # number of its tokens
    scales: tuple[tuple[int, ...], ...] = ()  # of one that is generated; none: it is understood
    flip_rates: np.ndarray | None = None  # float64 [latent frames, scales]: probability that a bit of history is wrong
    flip_seed: int = 0
    row: int = 0  # of the batch
    origin: str = ""  # its sample, for messages

    @property
    def is_generated(self) -> bool:
        return bool(self.scales)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SoundMedium:
    """A sound of a row and where its frames stand; a reference clip, role speaker, has one token for its voice."""

    samples: np.ndarray  # float32 [samples] in [-1, 1], at the codec's rate
    start: int  # place of its first token, behind BOA
    length: int  # number of its tokens
    role: Literal["understand", "generate", "speaker"]
    row: int = 0  # of the batch
    levels: int = 0  # of its codes that go in, the first ones; 0: all
    origin: str = ""  # its sample, for messages

    @property
    def is_generated(self) -> bool:
        return self.role == "generate"


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
    media: tuple[VisualMedium | SoundMedium, ...] = ()  # in order

    def __len__(self) -> int:
        return self.input_ids.shape[-1]

    def split(self, num_rows: int) -> list["UnifiedSequence"]:
        """Stacked rows [batch, seq] in parts of at most num_rows."""
        return [self.part(start, start + num_rows) for start in range(0, len(self.input_ids), num_rows)]

    def part(self, start: int, end: int) -> "UnifiedSequence":
        """Rows start..end of stacked rows."""
        arrays = {name: getattr(self, name)[start:end] for name in _ARRAYS}
        media = tuple(replace(medium, row=medium.row - start) for medium in self.media if start <= medium.row < end)
        return UnifiedSequence(**arrays, media=media)


_ARRAYS = [field.name for field in fields(UnifiedSequence) if field.name != "media"]


def stack(rows: list[UnifiedSequence]) -> UnifiedSequence:
    """Rows of equal length -> one UnifiedSequence whose arrays are [batch, seq, ...]."""
    media = tuple(replace(medium, row=i) for i, row in enumerate(rows) for medium in row.media)
    return UnifiedSequence(**{name: np.stack([getattr(row, name) for row in rows]) for name in _ARRAYS}, media=media)
