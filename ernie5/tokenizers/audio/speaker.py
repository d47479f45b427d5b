"""A small speaker encoder: one vector of unit length for the voice of a clip, whatever it says (report §2.3)."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie5.config.audio_networks import (
    MelTrainConfig,
    SpeakerConfig,
    check_speaker,
    check_training,
)
from ernie5.errors import UserError
from ernie5.layers.network_folder import NetworkFolder
from ernie5.tokenizers.audio.mel_network import (
    STATES_PER_FRAME,
    MelNetwork,
    Steps,
    check_waveform,
    shuffled,
    stacked,
    weight_shapes,
)

LOUDNESS_RANGE = 0.25, 4.0  # of a clip in training, over its own: a voice is not its loudness
SCALE = 15.0  # of cosines before the softmax
SMALLEST_VARIANCE = 1e-5
FOLDER = NetworkFolder(
    name="speaker encoder",
    model_type="ernie5_speaker_encoder",
    version=1,
    config_type=SpeakerConfig,
    check=check_speaker,
    command="tools/tokenizer.py train speaker",
)
logger = logging.getLogger(__name__)


class SpeakerEncoder(nn.Layer):
    """Mean and deviation of hidden states over a clip (arXiv:1803.10963 without its attention), projected."""

    def __init__(self, config: SpeakerConfig):
        super().__init__()
        self.config = config
        self.network = MelNetwork(config.network)
        self.projection = nn.Linear(2 * config.network.width, config.dim)

    def forward(self, waveform: paddle.Tensor, frames: paddle.Tensor | None = None) -> paddle.Tensor:
        """float32 [batch, samples] -> float32 [batch, dim] of unit length.

        `frames` int [batch]: those of 80 ms of each clip, if some are shorter than the waveform. UserError for
        anything but finite float32 samples.
        """
        check_waveform(waveform)
        states = self.network(self.network.log_mel(waveform), frames)
        if frames is None:
            frames = paddle.full([states.shape[0]], states.shape[1] // STATES_PER_FRAME, "int64")
        count = (frames * STATES_PER_FRAME).astype("float32").reshape([-1, 1, 1])
        shares = (paddle.arange(states.shape[1], dtype="float32").reshape([1, -1, 1]) < count).astype("float32") / count
        mean = (shares * states).sum(axis=1, keepdim=True)
        variance = (shares * (states - mean).square()).sum(axis=1)
        pooled = paddle.concat([mean.squeeze(1), (variance + SMALLEST_VARIANCE).sqrt()], axis=-1)
        return F.normalize(self.projection(pooled), axis=-1)

    @paddle.no_grad()
    def embed(self, waveform: np.ndarray) -> np.ndarray:
        """One clip, float32 [samples] -> float32 [dim]."""
        return self(paddle.to_tensor(waveform[None])).numpy()[0]

    def save_pretrained(self, folder: Path | str) -> Path:
        """Writes weights and configuration, each aside and renamed."""
        return FOLDER.save(folder, self.config, self)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "SpeakerEncoder":
        """What `save_pretrained` wrote, in evaluation mode. UserError: not such a folder, or its files do not agree."""
        return FOLDER.load(folder, cls, _shapes)


def _shapes(config: SpeakerConfig) -> dict[str, list[int]]:
    projection = {"projection.weight": [2 * config.network.width, config.dim]}
    return projection | weight_shapes(config.network, "network")


class SpeakerLoss(nn.Layer):
    """Softmax over the speakers of the training: a direction for each, and the scaled cosine to it as its logit."""

    def __init__(self, speakers: int, dim: int):
        super().__init__()
        self.directions = self.create_parameter([speakers, dim])

    def forward(self, vectors: paddle.Tensor, speakers: paddle.Tensor) -> paddle.Tensor:
        """vectors [batch, dim] of unit length, speakers int64 [batch] -> scalar."""
        cosines = vectors.matmul(F.normalize(self.directions, axis=-1), transpose_y=True)
        return F.cross_entropy(SCALE * cosines, speakers)


def train_speaker_encoder(
    clips: Sequence[tuple[np.ndarray, str]], config: SpeakerConfig, train: MelTrainConfig
) -> SpeakerEncoder:
    """A speaker encoder of clips, float32 [samples] each, with the names of who speaks, in evaluation mode.

    UserError if fewer than two speakers are there.
    """
    check_speaker(config, "speaker encoder")
    check_training(train, "speaker encoder")
    clips = [(sound, name) for sound, name in clips if len(sound)]
    names = sorted({name for _, name in clips})
    if len(names) < 2:
        raise UserError(f"speaker encoder: clips of {len(names)} speakers: give those of at least 2")
    encoder, loss_of = SpeakerEncoder(config), SpeakerLoss(len(names), config.dim)
    encoder.network.dropout = train.dropout
    rng, steps = np.random.default_rng(train.seed), Steps(nn.LayerList([encoder, loss_of]), train)
    batches = shuffled([len(sound) for sound, _ in clips], train.batch_size, rng)
    for step, numbers in zip(range(train.steps), batches, strict=False):
        sounds = [clips[number][0] * np.float32(rng.uniform(*LOUDNESS_RANGE)) for number in numbers]
        frames = paddle.to_tensor([encoder.network.num_frames(len(sound)) for sound in sounds], "int64")
        speakers = paddle.to_tensor([names.index(clips[number][1]) for number in numbers], "int64")
        loss = loss_of(encoder(paddle.to_tensor(stacked(sounds)), frames), speakers)
        steps.take(loss)
        if (step + 1) % train.log_steps == 0:
            logger.info("speaker encoder: step %d of %d, loss %.3f", step + 1, train.steps, loss.item())
    encoder.eval()
    return encoder


def equal_error_rate(vectors: np.ndarray, speakers: Sequence[str]) -> float:
    """How often two clips are taken for the same voice though they are not, and the reverse, where both are as often.

    vectors: float [clips, dim] of unit length; each pair is judged by its cosine. UserError if there is no pair of the
    same voice or none of two.
    """
    first, second = np.triu_indices(len(vectors), 1)
    names = np.asarray(speakers)
    same = names[first] == names[second]
    if not same.any() or same.all():
        raise UserError("the equal error rate needs two clips of one speaker and a clip of another: give more")
    order = np.argsort(-(vectors[first] * vectors[second]).sum(axis=1), kind="stable")
    missed = 1 - np.cumsum(same[order]) / same.sum()
    taken = np.cumsum(~same[order]) / (~same).sum()
    return float(np.maximum(missed, taken).min())
