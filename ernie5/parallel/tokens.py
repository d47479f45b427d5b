"""The tokens that a process has, and its part of a batch: the same places of every row, of media what lies there."""

import numpy as np
import paddle

from ernie5.modality.audio_codes import AudioBatch, SpokenTargets, Voices
from ernie5.modality.batch import Batch
from ernie5.modality.vision_codes import Generated, Understood, VisionBatch
from ernie5.parallel.context import own_tokens
from ernie5.parallel.mesh import Mesh


class TokenShare:
    """The tokens of a process: those of its context place, and of these a run for its tensor place."""

    def __init__(self, mesh: Mesh, rank: int):
        self._mesh, self._place = mesh, mesh.place(rank)
        self.is_everything = mesh.context == mesh.tensor == 1

    def of(self, batch: Batch) -> Batch:
        """Rows [batch, seq] -> [batch, own]. The mask stays that of the rows, and `position_ids` those of the context
        place, because attention works on all tokens that a tensor group has together."""
        if self.is_everything:
            return batch
        together, own = self._together(batch.input_ids.shape[1]), self.own(batch.input_ids.shape[1])
        local = _local_places(*batch.input_ids.shape, own)

        def cut(tensor: paddle.Tensor, tokens: np.ndarray = own) -> paddle.Tensor:
            return paddle.index_select(tensor, paddle.to_tensor(tokens), axis=1)

        return Batch(
            input_ids=cut(batch.input_ids),
            position_ids=cut(batch.position_ids, together),
            mask_rows=batch.mask_rows,
            labels=cut(batch.labels),
            loss_weight=cut(batch.loss_weight),
            next_ids=cut(batch.next_ids),
            mtp_labels=cut(batch.mtp_labels),
            mtp_loss_weight=cut(batch.mtp_loss_weight),
            vision=_vision(batch.vision, local),
            audio=_audio(batch.audio, local),
        )

    def own(self, seq_len: int) -> np.ndarray:
        """Places of a row whose tokens are here."""
        return np.split(self._together(seq_len), self._mesh.tensor)[self._place.tensor]

    def _together(self, seq_len: int) -> np.ndarray:
        """Those that the tensor group has together."""
        degree = self._mesh.context
        return own_tokens(seq_len, degree, self._place.context) if degree > 1 else np.arange(seq_len)


def _local_places(rows: int, seq_len: int, own: np.ndarray) -> np.ndarray:
    """int64 [rows * seq_len]: of each place of the flattened batch where it is here, -1: it is not."""
    local = np.full([rows, seq_len], -1)
    local[:, own] = np.arange(rows * len(own)).reshape(rows, -1)
    return local.ravel()


def _vision(vision: VisionBatch | None, local: np.ndarray) -> VisionBatch | None:
    if vision is None:
        return None
    understood = [_understood(group, local) for group in vision.understood]
    generated = _generated(vision.generated, local) if vision.generated is not None else None
    found = [group for group in understood if group is not None]
    return VisionBatch(found, generated) if found or generated is not None else None


def _understood(group: Understood, local: np.ndarray) -> Understood | None:
    """The media of which any token is here: a picture is seen whole."""
    places = local[group.places].reshape(group.pixels.shape[0], -1)
    is_here = (places >= 0).any(1)
    if not is_here.any():
        return None
    return Understood(_rows(group.pixels, is_here), places[is_here].ravel())


def _generated(generated: Generated, local: np.ndarray) -> Generated | None:
    """Tokens that are here, and targets whose predicting place is, one before: at a cut they part."""
    is_here, predicts = local[generated.places] >= 0, local[generated.target_places] >= 0
    if not (is_here | predicts).any():
        return None
    return Generated(
        inputs=_rows(generated.inputs, is_here),
        scale_ids=generated.scale_ids[is_here],
        places=local[generated.places][is_here],
        targets=_rows(generated.targets, predicts),
        target_places=local[generated.target_places][predicts],
        weight=generated.weight[predicts],
    )


def _audio(audio: AudioBatch | None, local: np.ndarray) -> AudioBatch | None:
    if audio is None:
        return None
    codes, places = audio.codes, local[audio.places]
    if codes is not None:
        codes = _rows(codes, places >= 0) if (places >= 0).any() else None
    spoken, voices = audio.spoken, audio.voices
    if spoken is not None:
        predicts = local[spoken.places] >= 0
        targets = _rows(spoken.codes, predicts), local[spoken.places][predicts], _rows(spoken.weight, predicts)
        spoken = SpokenTargets(*targets) if predicts.any() else None
    if voices is not None:
        at = local[voices.places]
        voices = Voices(_rows(voices.vectors, at >= 0), at[at >= 0]) if (at >= 0).any() else None
    return AudioBatch(codes, places[places >= 0], spoken, voices)


def _rows(tensor: paddle.Tensor, keep: np.ndarray) -> paddle.Tensor:
    return paddle.gather(tensor, paddle.to_tensor(np.flatnonzero(keep)))
