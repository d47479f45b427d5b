"""A small recogniser of speech, trained with CTC on transcribed clips: the default semantic teacher (report §2.3).

Symbols come from the states of every 20 ms, because letters are said faster than frames of codes follow each other;
as a teacher it gives the means of the four states of each frame.
"""

import logging
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from tqdm import tqdm

from ernie5.config.audio_networks import (
    MelNetworkConfig,
    RecogniserConfig,
    RecogniserTrainConfig,
    check_recogniser,
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

BLANK = 0  # the symbols follow
LOUDNESS_RANGE = 0.25, 4.0  # of a clip in training, over its own
FOLDER = NetworkFolder(
    name="recogniser of speech",
    model_type="ernie5_recogniser",
    version=1,
    config_type=RecogniserConfig,
    check=check_recogniser,
    command="tools/tokenizer.py train audio",
)
logger = logging.getLogger(__name__)


class Recogniser(nn.Layer):
    """Writes what it hears, symbol by symbol. Waveforms are float32 [batch, samples] at the configured rate, mono."""

    def __init__(self, config: RecogniserConfig):
        super().__init__()
        self.config, self.dim = config, config.network.width
        self.network = MelNetwork(config.network)
        self.head = nn.Linear(self.dim, 1 + len(config.symbols))

    def forward(self, waveform: paddle.Tensor, frames: paddle.Tensor | None = None) -> paddle.Tensor:
        """-> logits [batch, 4 * frames, 1 + symbols]; `frames` int [batch] if clips are shorter than the waveform."""
        check_waveform(waveform)
        return self.head(self.network(self.network.log_mel(waveform), frames))

    @paddle.no_grad()
    def features(self, waveform: paddle.Tensor) -> paddle.Tensor:
        """-> float32 [batch, frames of 80 ms, dim]: what the head reads, averaged. UserError for no such waveform."""
        check_waveform(waveform)
        states = self.network(self.network.log_mel(waveform))
        return states.reshape([states.shape[0], -1, STATES_PER_FRAME, self.dim]).mean(axis=2)

    @paddle.no_grad()
    def transcribe(self, waveform: np.ndarray) -> str:
        """One clip, float32 [samples], to its likeliest symbols of each state (greedy), repeats and blanks left out."""
        best = self(paddle.to_tensor(waveform[None])).argmax(axis=-1).numpy()[0]
        firsts = np.flatnonzero(np.diff(best, prepend=BLANK))
        return "".join(self.config.symbols[symbol - 1] for symbol in best[firsts] if symbol != BLANK)

    def save_pretrained(self, folder: Path | str) -> Path:
        """Writes weights and configuration, each aside and renamed."""
        return FOLDER.save(folder, self.config, self)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "Recogniser":
        """What `save_pretrained` wrote, in evaluation mode. UserError: not such a folder, or its files do not agree."""
        return FOLDER.load(folder, cls, _shapes)


def _shapes(config: RecogniserConfig) -> dict[str, list[int]]:
    head = {"head.weight": [config.network.width, 1 + len(config.symbols)]}
    return head | weight_shapes(config.network, "network")


def ctc_loss(logits: paddle.Tensor, states: paddle.Tensor, labels: Sequence[Sequence[int]]) -> paddle.Tensor:
    """-log of the probability of each clip's labels, summed over alignments, over all labels (CTC, Graves 2006).

    logits [batch, time, 1 + symbols], states int64 [batch]: how many of the time count; labels from 1 on, which
    must fit into them (`states_needed`). Raises ValueError for a clip without one, which would end the process in
    Paddle 3.3.1.
    """
    lengths = [len(row) for row in labels]
    if not all(lengths):
        raise ValueError("a clip has no label: leave it out")
    padded = np.zeros([len(labels), max(lengths)], np.int32)
    for row, label in zip(padded, labels, strict=True):
        row[: len(label)] = label
    losses = F.ctc_loss(
        logits.transpose([1, 0, 2]),
        paddle.to_tensor(padded),
        states,
        paddle.to_tensor(lengths, "int64"),
        BLANK,
        reduction="none",
    )
    return losses.sum() / sum(lengths)


def states_needed(labels: Sequence[int]) -> int:
    """How many states labels take at least: a blank stands between two that are the same."""
    return len(labels) + sum(a == b for a, b in zip(labels, labels[1:], strict=False))


def train_recogniser(
    clips: Sequence[tuple[np.ndarray, str]], network: MelNetworkConfig, config: RecogniserTrainConfig
) -> Recogniser:
    """A recogniser of transcribed clips, float32 [samples] each, in evaluation mode.

    Clips without text, or with less time than it needs at the highest speed, are left out. UserError if no others are
    there.
    """
    check_training(config, "recogniser")
    symbols = tuple(sorted(set("".join(text for _, text in clips))))
    settings = RecogniserConfig(network=network, symbols=symbols)
    check_recogniser(settings, "recogniser")
    recogniser = Recogniser(settings)
    recogniser.network.dropout = config.dropout
    sounds, labels = _fitting(clips, recogniser, config.speeds[1])
    rng, steps = np.random.default_rng(config.seed), Steps(recogniser, config)
    batches = shuffled([len(sound) for sound in sounds], config.batch_size, rng)
    bar = tqdm(range(config.steps), desc="recogniser", unit="step")
    for step, numbers in zip(bar, batches, strict=False):
        varied = [_varied(sounds[number], config, rng) for number in numbers]
        loss = _loss(recogniser, varied, [labels[number] for number in numbers], config, rng)
        steps.take(loss)
        if (step + 1) % config.log_steps == 0:
            logger.info("recogniser: step %d of %d, loss %.3f", step + 1, config.steps, loss.item())
    recogniser.eval()
    return recogniser


def _fitting(
    clips: Sequence[tuple[np.ndarray, str]], recogniser: Recogniser, speed: float
) -> tuple[list[np.ndarray], list[list[int]]]:
    """Sounds and labels of the clips whose text fits into their time at this speed."""
    index = {symbol: number for number, symbol in enumerate(recogniser.config.symbols, 1)}
    sounds, labels = [], []
    for sound, text in clips:
        label = [index[symbol] for symbol in text]
        states = STATES_PER_FRAME * recogniser.network.num_frames(int(len(sound) / speed))
        if 0 < states_needed(label) <= states:
            sounds.append(sound)
            labels.append(label)
    if not sounds:
        raise UserError(
            f"recogniser: none of {len(clips)} clips has text and is long enough for it: give transcribed speech"
        )
    if len(sounds) < len(clips):
        logger.warning("recogniser: %d clips have no text or are too short for it: left out", len(clips) - len(sounds))
    return sounds, labels


def _loss(
    recogniser: Recogniser,
    sounds: list[np.ndarray],
    labels: list[list[int]],
    config: RecogniserTrainConfig,
    rng: np.random.Generator,
) -> paddle.Tensor:
    """CTC of a batch whose spectrograms are varied."""
    network = recogniser.network
    frames = paddle.to_tensor([network.num_frames(len(sound)) for sound in sounds], "int64")
    mel = network.log_mel(paddle.to_tensor(stacked(sounds)))
    mix, tilt = _throats(len(sounds), network.config.bands, config, rng)
    mel = paddle.to_tensor(mix).matmul(mel) + paddle.to_tensor(tilt)
    return ctc_loss(recogniser.head(network(mel, frames)), frames * STATES_PER_FRAME, labels)


def _throats(
    clips: int, bands: int, config: RecogniserTrainConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """For each clip how its bands are mixed, float32 [clips, bands, bands], and what is added, [clips, bands, 1].

    Bands are moved, as by the length of a throat (Jaitly and Hinton 2013), tilted, and some neighbours blanked
    (arXiv:1904.08779).
    """
    numbers = np.arange(bands)
    places = np.clip(numbers * (1 + rng.uniform(-config.formants, config.formants, [clips, 1])), 0, bands - 1)
    mix = np.maximum(0, 1 - np.abs(places[..., None] - numbers))
    tilt = rng.uniform(-config.tilt, config.tilt, [clips, 1]) * np.linspace(-1, 1, bands)
    first = rng.integers(0, bands, [clips, 1])
    last = first + rng.integers(0, 1 + int(config.hidden_bands * bands), [clips, 1])
    shown = (numbers < first) | (numbers >= last)
    return (mix * shown[..., None]).astype(np.float32), (tilt * shown)[..., None].astype(np.float32)


def _varied(sound: np.ndarray, config: RecogniserTrainConfig, rng: np.random.Generator) -> np.ndarray:
    """Played faster or slower, its pitch with it, louder or softer, and with noise."""
    samples = int(len(sound) / rng.uniform(*config.speeds)) or 1
    played = np.interp(np.linspace(0, len(sound) - 1, samples), np.arange(len(sound)), sound)
    noise = rng.standard_normal(samples) * rng.uniform(0, config.noise) * np.sqrt(np.square(played).mean())
    return ((played + noise) * rng.uniform(*LOUDNESS_RANGE)).astype(np.float32)


def error_rate(found: Sequence[Sequence[Hashable]], expected: Sequence[Sequence[Hashable]]) -> float:
    """Edits that turn what was found into what was expected, over the length of the latter, all clips together.

    Of characters for strings, of words for lists of words; may be above 1. UserError if nothing is expected.
    """
    length = sum(map(len, expected))
    if not length:
        raise UserError("the error rate of empty transcripts is not defined: give clips with text")
    return sum(edits(a, b) for a, b in zip(found, expected, strict=True)) / length


def edits(found: Sequence[Hashable], expected: Sequence[Hashable]) -> int:
    """Levenshtein distance: least insertions, deletions and substitutions."""
    row = list(range(len(expected) + 1))
    for i, symbol in enumerate(found, 1):
        diagonal, row[0] = row[0], i
        for j, wanted in enumerate(expected, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (symbol != wanted))
    return row[-1]
