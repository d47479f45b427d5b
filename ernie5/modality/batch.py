"""A batch of unified sequences as the model takes it, with the targets of each loss."""

from typing import NamedTuple

import numpy as np
import paddle

from ernie5.modality.audio_codes import AudioBatch, AudioCoder
from ernie5.modality.unified import IGNORE_INDEX, SoundMedium, UnifiedSequence, VisualMedium
from ernie5.modality.vision_codes import VisionBatch, VisionCoder


class Coders(NamedTuple):
    """What turns the media of a batch into tokens; None for a modality that the model does not have."""

    vision: VisionCoder | None = None
    audio: AudioCoder | None = None


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
    audio: AudioBatch | None = None  # where a row holds a sound

    def weights(self) -> dict[str, float]:
        """What the sum of each loss is divided by to be a mean; 0 where nothing of the kind is a target."""
        drawn = self.vision.generated if self.vision is not None else None
        spoken = self.audio.spoken if self.audio is not None else None
        return {
            "text": float(self.loss_weight.sum()),
            "mtp": float(self.mtp_loss_weight.sum()),
            "vision": float(drawn.weight.sum()) if drawn is not None else 0.0,
            "audio": float(spoken.weight.sum()) if spoken is not None else 0.0,
        }


NO_CODERS = Coders()


def make_batch(rows: UnifiedSequence, coders: Coders = NO_CODERS) -> Batch:
    """Stacked rows [batch, seq] -> Batch. `coders` turn pixels and waveforms into tokens."""
    seen = [medium for medium in rows.media if isinstance(medium, VisualMedium)]
    heard = [medium for medium in rows.media if isinstance(medium, SoundMedium)]
    seq_len = rows.input_ids.shape[1]
    labels, weight = masked_targets(rows.labels, rows.loss_weight)
    mtp_labels, mtp_weight = mtp_targets(rows)
    next_ids = np.where(rows.labels == IGNORE_INDEX, 0, rows.labels)
    tensor = paddle.to_tensor
    return Batch(
        tensor(rows.input_ids),
        tensor(rows.position_ids),
        rows.mask_rows,
        *(tensor(array) for array in (labels, weight, next_ids, mtp_labels, mtp_weight)),
        vision=coders.vision.encode(seen, seq_len) if seen else None,
        audio=coders.audio.encode(heard, seq_len) if heard else None,
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
