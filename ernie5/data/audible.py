"""A sound of a sample becomes tokens: how many and where they stand. Samples of the waveform ride along."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ernie5.config.audio_tokenizer import FRAMES_PER_SECOND
from ernie5.config.schema import AudioConfig, AudioDataConfig
from ernie5.data.sample import Audio
from ernie5.data.sounds import read_sound
from ernie5.errors import UserError
from ernie5.modality.token_layout import TokenLayout, sound_layout
from ernie5.modality.unified import SoundMedium, TokenKind


class AudioSettings(NamedTuple):
    """What the model says of sounds, and what the run says of audio data."""

    model: AudioConfig
    data: AudioDataConfig

    def uncorrupted(self) -> "AudioSettings":
        """As evaluation and prompts take sounds: nothing dropped, nothing varied."""
        return self._replace(data=AudioDataConfig(condition_dropout=0.0))


class Variation(NamedTuple):
    """How a sound is changed."""

    speed: float = 1.0  # at which it is played, its pitch with it
    delay: int = 0  # samples of silence before it
    levels: int = 0  # of its codes that are kept, the first ones; 0: all


UNCHANGED = Variation()


def draw_variation(settings: AudioSettings, of_sample: np.random.Generator, of_sound: np.random.Generator) -> Variation:
    """One speed for all sounds of a sample, because they may be of one voice; a delay and levels for each."""
    most = settings.data.speed_range
    longest = round(settings.data.max_delay * settings.model.sample_rate)
    speed, delay = 1 + of_sample.uniform(-most, most), int(of_sound.integers(longest + 1))
    levels = settings.model.num_codebooks
    if levels == 1 or of_sound.random() >= settings.data.level_dropout:
        return Variation(speed, delay)
    return Variation(speed, delay, int(of_sound.integers(1, levels)))


def varied(samples: np.ndarray, variation: Variation) -> np.ndarray:
    """float32 [samples] -> float32 of another length. Linear interpolation: speech has little near half the rate."""
    if variation.speed != 1:
        places = np.arange(max(1, round(len(samples) / variation.speed))) * variation.speed
        samples = np.interp(places, np.arange(len(samples)), samples).astype(np.float32)
    return np.pad(samples, [variation.delay, 0]) if variation.delay else samples


@dataclass(frozen=True, slots=True, eq=False)
class EncodedSound:
    """A sound with the layout of its tokens."""

    layout: TokenLayout
    samples: np.ndarray  # float32 [samples]
    role: str
    levels: int = 0  # of codes that are kept, see Variation

    @property
    def is_generated(self) -> bool:
        return self.role == "generate"

    @property
    def kind(self) -> TokenKind:
        return TokenKind.AUDIO

    def placed(self, start: int) -> SoundMedium:
        """With its first token at `start`."""
        length = len(self.layout)
        return SoundMedium(samples=self.samples, start=start, length=length, role=self.role, levels=self.levels)


def encode_sound(segment: Audio, settings: AudioSettings, variation: Variation = UNCHANGED) -> EncodedSound:
    """Reads the file. Raises UserError if it cannot be read, is too long, or a voice that the model does not take."""
    model = settings.model
    if segment.role == "speaker" and not model.speaker_dim:
        raise UserError(f"{segment.source}: is a reference clip, but this model takes no voices: leave it out")
    samples = varied(read_sound(segment.source, model.sample_rate, model.max_seconds), variation)
    length = 1 if segment.role == "speaker" else num_frames(len(samples), model)
    return EncodedSound(sound_layout(length), samples, segment.role, variation.levels)


def num_frames(samples: int, model: AudioConfig) -> int:
    """Frames of codes of so many samples; the last one is filled up."""
    return -(-samples // round(model.sample_rate / FRAMES_PER_SECOND))
