"""Batches of clips from sounds in memory. NumPy only."""

from collections.abc import Sequence

import numpy as np

from ernie5.errors import UserError

LOUDNESS_RANGE = 0.02, 0.2  # root mean square
MAX_GAIN, SMALLEST_LOUDNESS = 10.0, 1e-6


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


def leveled(clips: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float32 [batch, samples], each as loud as drawn, evenly in decibels, so that soft and loud speech are learned.

    A peak stays within full scale. The most that a clip is amplified by keeps silence with a little noise silent.
    """
    own = np.sqrt(np.square(clips).mean(axis=1)) + SMALLEST_LOUDNESS
    drawn = np.exp(rng.uniform(*np.log(LOUDNESS_RANGE), len(clips)))
    peak = np.abs(clips).max(axis=1) + SMALLEST_LOUDNESS
    gain = np.minimum(np.minimum(drawn / own, MAX_GAIN), 1 / peak)
    return (clips * gain[:, None]).astype(np.float32)
