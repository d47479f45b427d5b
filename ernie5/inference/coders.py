"""What a model folder brings to see and hear, draw and speak with."""

from pathlib import Path

from ernie5.config.schema import ModelConfig
from ernie5.errors import UserError
from ernie5.modality.audio_codes import AudioCoder
from ernie5.modality.batch import Coders
from ernie5.modality.vision_codes import VisionCoder
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.folder import AUDIO_TOKENIZER, SPEAKER_ENCODER, VISION_TOKENIZER
from ernie5.tokenizers.audio.speaker import SpeakerEncoder
from ernie5.tokenizers.audio.tokenizer import AudioTokenizer
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer
from ernie5.train.audio_tokenizer import check_speaker
from ernie5.train.audio_tokenizer import check_tokenizer as check_audio_tokenizer
from ernie5.train.vision_tokenizers import check_tokenizer as check_vision_tokenizer

SIGHT = Coders(VisionCoder(None))  # to look at pictures and films takes no tokenizer


def load_coders(folder: Path | str, config: ModelConfig) -> Coders:
    """Those that are in the folder: without its tokenizers a model answers, but does not draw, hear or speak.

    Raises UserError for files that cannot be read or do not fit the model.
    """
    vision = audio = None
    if config.vision is not None:
        vision = VisionCoder(_vision_tokenizer(Path(folder) / VISION_TOKENIZER, config))
    if config.audio is not None and (Path(folder) / AUDIO_TOKENIZER).is_dir():
        audio = _audio_coder(Path(folder), config)
    return Coders(vision, audio)


def require_vision(coders: Coders, model: Ernie5ForCausalLM) -> VisionTokenizer:
    """What draws. Raises UserError if there is none."""
    if model.config.vision is None:
        raise UserError("this model has no vision: to draw, take a model with vision")
    if coders.vision is None or coders.vision.tokenizer is None:
        raise UserError(
            f"there is no vision tokenizer to draw with: put one into {VISION_TOKENIZER}/ of the model folder"
        )
    return coders.vision.tokenizer


def require_audio(coders: Coders, model: Ernie5ForCausalLM) -> AudioCoder:
    """What speaks and hears. Raises UserError if there is none."""
    if model.config.audio is None:
        raise UserError("this model has no audio: to speak, take a model with audio")
    if coders.audio is None:
        raise UserError(
            f"there is no audio tokenizer to hear or speak with: put one into {AUDIO_TOKENIZER}/ of the model folder"
        )
    return coders.audio


def require_speaker_encoder(coders: Coders) -> None:
    """UserError if there is nothing that takes the voice of a reference clip."""
    if coders.audio.speaker is None:
        raise UserError(
            f"there is no speaker encoder to take a voice with: put one into {SPEAKER_ENCODER}/ of the model folder"
        )


def _vision_tokenizer(folder: Path, config: ModelConfig) -> VisionTokenizer | None:
    if not folder.is_dir():
        return None
    tokenizer = VisionTokenizer.from_pretrained(folder)
    check_vision_tokenizer(tokenizer, config.vision, folder)
    return tokenizer


def _audio_coder(folder: Path, config: ModelConfig) -> AudioCoder:
    tokenizer = AudioTokenizer.from_pretrained(folder / AUDIO_TOKENIZER)
    check_audio_tokenizer(tokenizer, config.audio, folder / AUDIO_TOKENIZER)
    if not config.audio.speaker_dim or not (folder / SPEAKER_ENCODER).is_dir():
        return AudioCoder(tokenizer)
    speaker = SpeakerEncoder.from_pretrained(folder / SPEAKER_ENCODER)
    check_speaker(speaker, config.audio, folder / SPEAKER_ENCODER)
    return AudioCoder(tokenizer, speaker)
