"""Batches of clips from sounds in memory. NumPy only."""

from collections.abc import Sequence

import numpy as np

from ernie5.errors import UserError


class ClipSampler:
    """Pieces of one length of sounds of any length, each sound as likely as it is long."""

    def __init__(self, sounds: Sequence[np.ndarray], clip_samples: int):
        """sounds: float32 [samples] each. Raises UserError if there is none."""
        if not sounds:
            raise UserError("data.train holds no sound: name a folder or a manifest that does")
        self.sounds, self.clip_samples = list(sounds), clip_samples
        lengths = np.array([max(len(sound), clip_samples) for sound in self.sounds], np.float64)
        self._shares = lengths / lengths.sum()

    def clips(self, rng: np.random.Generator, batch_size: int) -> np.ndarray:
        """float32 [batch_size, clip_samples]; a shorter sound stands somewhere in silence."""
        clips = np.zeros([batch_size, self.clip_samples], np.float32)
        for clip, number in zip(clips, rng.choice(len(self.sounds), batch_size, p=self._shares), strict=True):
            sound = self.sounds[number]
            start = int(rng.integers(abs(len(sound) - self.clip_samples) + 1))
            if len(sound) > self.clip_samples:
                clip[:] = sound[start : start + self.clip_samples]
            else:
                clip[start : start + len(sound)] = sound
        return clips
