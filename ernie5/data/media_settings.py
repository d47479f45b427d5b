"""What encoding needs to know of media: the settings of the model's modalities, and of the run's data."""

from typing import NamedTuple

import numpy as np

from ernie5.config.schema import AudioDataConfig, DataConfig, ModelConfig, VisionDataConfig
from ernie5.data.audible import AudioSettings, EncodedSound, draw_variation, encode_sound
from ernie5.data.sample import Audio, Image, Video
from ernie5.data.shuffle import derive_key
from ernie5.data.visual import EncodedMedium, VisionSettings, encode_medium
from ernie5.errors import UserError


class MediaSettings(NamedTuple):
    """None for a modality that the model does not have."""

    vision: VisionSettings | None = None
    audio: AudioSettings | None = None

    @classmethod
    def of(cls, model: ModelConfig, data: DataConfig) -> "MediaSettings":
        """As training takes media."""
        return cls(
            VisionSettings(model.vision, data.vision) if model.vision is not None else None,
            AudioSettings(model.audio, data.audio) if model.audio is not None else None,
        )

    @classmethod
    def uncorrupted(cls, model: ModelConfig) -> "MediaSettings":
        """As evaluation and prompts take media: nothing dropped, masked or flipped."""
        return cls(
            VisionSettings(model.vision, VisionDataConfig()).uncorrupted() if model.vision is not None else None,
            AudioSettings(model.audio, AudioDataConfig()).uncorrupted() if model.audio is not None else None,
        )

    def require(self, segment: Image | Video | Audio, origin: str) -> None:
        """UserError for a medium that this model cannot take."""
        tower = "audio" if isinstance(segment, Audio) else "vision"
        if getattr(self, tower) is None:
            raise UserError(
                f"{origin}: has the {type(segment).__name__.lower()} {segment.source}, but this model has no {tower}: "
                f"take a model with {tower}, or leave this out"
            )

    def encode(self, segment: Image | Video | Audio, number: int, seed: int) -> EncodedMedium | EncodedSound:
        """Reads the file; what is drawn at random is a function of the sample's `seed` and the segment's `number`.

        Raises UserError if it cannot be read.
        """
        own = derive_key(seed, "medium", number)
        if not isinstance(segment, Audio):
            return encode_medium(segment, self.vision, own)
        generators = (np.random.default_rng(key) for key in (derive_key(seed, "voice"), own))
        variation = draw_variation(self.audio, *generators)
        if segment.role == "generate":  # when it begins is not to be learned, and all of it is
            variation = variation._replace(delay=0, levels=0)
        return encode_sound(segment, self.audio, variation)

    def condition_dropout(self, medium: EncodedMedium | EncodedSound) -> float:
        """Probability that this generated medium loses what stands before it."""
        return (self.audio if isinstance(medium, EncodedSound) else self.vision).data.condition_dropout


TEXT_ALONE = MediaSettings()
