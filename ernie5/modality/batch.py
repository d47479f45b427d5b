"""A batch of unified sequences as the model takes it, with the targets of each loss."""

from typing import NamedTuple

import numpy as np
import paddle

from ernie5.modality.unified import IGNORE_INDEX, UnifiedSequence
from ernie5.modality.vision_codes import VisionBatch, VisionCoder


class Batch(NamedTuple):
    """Tensors [batch, seq, ...]; `mask_rows` stays in NumPy, because the attention tiles are laid out from it."""

    input_ids: paddle.Tensor  # int64
    position_ids: paddle.Tensor  # float32 [batch, seq, 3]
    mask_rows: np.ndarray  # int32 [batch, seq, 2 or 4]
    labels: paddle.Tensor  # int64; IGNORE_INDEX where nothing is predicted
    loss_weight: paddle.Tensor  # float32
    next_ids: paddle.Tensor  # int64: the id that follows, which multi-token prediction embeds; 0 where none does
    mtp_labels: paddle.Tensor  # int64: the id after the next
    mtp_loss_weight: paddle.Tensor  # float32
    vision: VisionBatch | None = None  # where a row holds a picture or a film

    @property
    def has_generated(self) -> bool:
        """Whether a picture or a film is among the targets."""
        return self.vision is not None and self.vision.generated is not None


def make_batch(rows: UnifiedSequence, coder: VisionCoder | None = None) -> Batch:
    """Stacked rows [batch, seq] -> Batch. `coder` turns the pixels of rows that hold media into tokens."""
    labels, weight = masked_targets(rows.labels, rows.loss_weight)
    mtp_labels, mtp_weight = mtp_targets(rows)
    next_ids = np.where(rows.labels == IGNORE_INDEX, 0, rows.labels)
    tensor = paddle.to_tensor
    return Batch(
        tensor(rows.input_ids),
        tensor(rows.position_ids),
        rows.mask_rows,
        *(tensor(array) for array in (labels, weight, next_ids, mtp_labels, mtp_weight)),
        vision=coder.encode(rows.media, rows.input_ids.shape[1]) if rows.media else None,
    )


def masked_targets(labels: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A target counts only where it exists and weighs: the rest gets IGNORE_INDEX and weight 0. Any equal shapes."""
    counts = (labels != IGNORE_INDEX) & (weight != 0)
    return np.where(counts, labels, IGNORE_INDEX), np.where(counts, weight, np.float32(0))


def mtp_targets(rows: UnifiedSequence) -> tuple[np.ndarray, np.ndarray]:
    """Labels and weights of the second-next token: those of the next position, while that is the same document."""
    labels = np.full_like(rows.labels, IGNORE_INDEX)
    weight = np.zeros_like(rows.loss_weight)
    same = rows.document_ids[:, 1:] == rows.document_ids[:, :-1]
    labels[:, :-1] = np.where(same, rows.labels[:, 1:], IGNORE_INDEX)
    weight[:, :-1] = np.where(same, rows.loss_weight[:, 1:], 0)
    return masked_targets(labels, weight)
