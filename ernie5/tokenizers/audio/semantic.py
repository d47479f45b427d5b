"""The semantic level: level 0 is regressed to a teacher's features (report §2.3)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.config.audio_networks import MelNetworkConfig, RecogniserTrainConfig
from ernie5.config.audio_tokenizer import AudioSemanticConfig
from ernie5.errors import UserError
from ernie5.tokenizers.audio.recogniser import train_recogniser
from ernie5.tokenizers.audio.teacher import Teacher
from ernie5.tokenizers.audio.whisper import WhisperEncoder


class SemanticLoss(nn.Layer):
    """One minus the cosine of a projection of level 0's vectors to a teacher's features, a mean over frames.

    arXiv:2308.16692 §3.2 takes the cosine of each dimension over a clip's time, ours of each frame over dimensions, so
    that it means the same in clips of any length. The projection is trained beside the codec and not kept.
    """

    def __init__(self, latent_size: int, teacher: Teacher):
        super().__init__()
        self.projection = nn.Linear(latent_size, teacher.dim)
        self._wanted = teacher.features  # not the teacher, which would become a part of this layer and train

    def forward(self, first: paddle.Tensor, waveform: paddle.Tensor) -> paddle.Tensor:
        """first float32 [batch, frames, latent_size], waveform float32 [batch, samples] -> scalar."""
        with paddle.no_grad():
            wanted = self._wanted(waveform)
        return (1 - F.cosine_similarity(self.projection(first), wanted, axis=-1)).mean()


def check_transcripts(config: AudioSemanticConfig, texts: Sequence[str]) -> None:
    """UserError if a recogniser is to be trained, and none of the sounds has a text."""
    if config.weight and not config.teacher and not any(texts):
        raise UserError(
            f"train.loss.semantic.weight is {config.weight:g}, but no sound of data.train has a text to train a "
            "recogniser on: name an index of transcribed sounds, or a Whisper folder as train.loss.semantic.teacher, "
            "or set the weight to 0"
        )


def make_teacher(
    config: AudioSemanticConfig,
    sample_rate: int,
    transcripts: Sequence[tuple[np.ndarray, str]],
    seed: int,
    folder: Path,
) -> Teacher:
    """The encoder of the Whisper folder that the settings name, or a recogniser trained here and saved in `folder`.

    transcripts: float32 [samples] each at `sample_rate`, with what is said. UserError: no such folder, or no text.
    """
    if config.teacher:
        return WhisperEncoder(config.teacher, sample_rate)
    check_transcripts(config, [text for _, text in transcripts])
    settings = RecogniserTrainConfig(steps=config.recogniser_steps, seed=seed)
    recogniser = train_recogniser(transcripts, MelNetworkConfig(sample_rate=sample_rate), settings)
    recogniser.save_pretrained(folder)
    return recogniser
