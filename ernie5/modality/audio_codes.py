"""The sounds of a batch as the model takes them: codes of frames, target codes, voices (report §2.3, Figure 3)."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import paddle

from ernie5.modality.unified import SoundMedium
from ernie5.tokenizers.audio.speaker import SpeakerEncoder
from ernie5.tokenizers.audio.tokenizer import AudioTokenizer

ENCODED_TOGETHER = 8  # sounds
KEPT_FRAMES = 200_000  # of codes that a coder remembers, at a few bytes a code; the same clips come again every epoch


MISSING = -1  # in the place of a code that is kept from the model


class SpokenTargets(NamedTuple):
    """What is predicted of the sounds that are generated: their codes, and the end behind the last."""

    codes: paddle.Tensor  # int64 [n, levels]; `codebook_size` is the end
    places: np.ndarray  # int64 [n]: in the flattened batch, the position that predicts them, one before
    weight: paddle.Tensor  # float32 [n]


class Voices(NamedTuple):
    vectors: paddle.Tensor  # float32 [n, speaker_dim]
    places: np.ndarray  # int64 [n]: in the flattened batch


class AudioBatch(NamedTuple):
    """Sounds of a batch, those that are heard and those that are spoken alike."""

    codes: paddle.Tensor | None  # int64 [n, levels] of all frames; MISSING where a level is left out
    places: np.ndarray  # int64 [n]: in the flattened batch
    spoken: SpokenTargets | None
    voices: Voices | None


class AudioCoder:
    """Encodes sounds with an audio tokenizer and a speaker encoder, which are never trained here (report §5).

    Codes do not depend on what else is in the batch, so those of clips that come again are remembered.
    """

    def __init__(self, tokenizer: AudioTokenizer, speaker: SpeakerEncoder | None = None):
        self.tokenizer, self.speaker = tokenizer, speaker
        self._known: OrderedDict[tuple[bytes, bool], np.ndarray] = OrderedDict()
        self._kept = 0

    def encode(self, media: Sequence[SoundMedium], seq_len: int) -> AudioBatch:
        """Sounds of stacked rows of `seq_len` tokens."""
        sounds = [medium for medium in media if medium.role != "speaker"]
        voices = [medium for medium in media if medium.role == "speaker"]
        codes = self.codes([medium.samples for medium in sounds])
        places = [_start(medium, seq_len) + np.arange(medium.length) for medium in sounds]
        return AudioBatch(
            paddle.to_tensor(np.concatenate([_kept(*pair) for pair in zip(sounds, codes, strict=True)]))
            if codes
            else None,
            np.concatenate(places) if places else np.zeros(0, np.int64),
            self._targets(sounds, codes, seq_len),
            self._voices(voices, seq_len) if voices else None,
        )

    def codes(self, sounds: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Waveforms float32 [samples] -> codes int64 [frames, levels] of each."""
        return self._remembered(sounds, False, self._encode)

    def vectors(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Waveforms float32 [samples] -> vectors float32 [speaker_dim] of their voices."""
        return self._remembered(clips, True, lambda missing: [self.speaker.embed(clip) for clip in missing])

    def _targets(self, sounds: Sequence[SoundMedium], codes: list[np.ndarray], seq_len: int) -> SpokenTargets | None:
        targets, places = [], []
        for medium, rows in zip(sounds, codes, strict=True):
            if medium.is_generated:
                end = np.full([1, rows.shape[1]], self.tokenizer.config.codebook_size)
                targets.append(np.concatenate([rows, end]))
                places.append(_start(medium, seq_len) - 1 + np.arange(len(rows) + 1))
        if not targets:
            return None
        where = np.concatenate(places)
        return SpokenTargets(paddle.to_tensor(np.concatenate(targets)), where, paddle.ones([len(where)]))

    def _voices(self, voices: Sequence[SoundMedium], seq_len: int) -> Voices:
        vectors = np.stack(self.vectors([medium.samples for medium in voices]))
        return Voices(paddle.to_tensor(vectors), np.array([_start(medium, seq_len) for medium in voices]))

    def _encode(self, sounds: Sequence[np.ndarray]) -> list[np.ndarray]:
        """A few of like length together, so that little is padded."""
        frame = self.tokenizer.config.frame_size
        found: list[np.ndarray] = [np.zeros(0)] * len(sounds)
        order = np.argsort([len(sound) for sound in sounds], kind="stable")
        for start in range(0, len(order), ENCODED_TOGETHER):
            group = order[start : start + ENCODED_TOGETHER]
            longest = len(sounds[group[-1]])
            padded = np.stack([np.pad(sounds[i], [0, longest - len(sounds[i])]) for i in group])
            codes = self.tokenizer.encode(paddle.to_tensor(padded)).numpy()
            for i, rows in zip(group, codes, strict=True):
                found[i] = rows[: -(-len(sounds[i]) // frame)]
        return found

    def _remembered(self, sounds: Sequence[np.ndarray], of_voices: bool, compute) -> list[np.ndarray]:
        """What `compute` makes of each sound, computed once for equal sounds."""
        keys = [(hashlib.blake2b(sound.tobytes(), digest_size=16).digest(), of_voices) for sound in sounds]
        missing = {key: sound for key, sound in zip(keys, sounds, strict=True) if key not in self._known}
        fresh = dict(zip(missing, compute(list(missing.values())), strict=True)) if missing else {}
        found = [fresh[key] if key in fresh else self._known[key] for key in keys]
        for key, value in fresh.items():
            self._known[key] = value
            self._kept += len(value)
        while self._kept > KEPT_FRAMES:
            self._kept -= len(self._known.popitem(last=False)[1])
        return found


def _kept(medium: SoundMedium, codes: np.ndarray) -> np.ndarray:
    """The codes int64 [frames, levels] without the levels that the medium leaves out."""
    level = np.arange(codes.shape[1])
    return np.where(level < (medium.levels or len(level)), codes, MISSING)


def _start(medium: SoundMedium, seq_len: int) -> int:
    """Its first token in the flattened batch."""
    return medium.row * seq_len + medium.start
