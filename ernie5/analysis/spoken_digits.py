"""The judge of spoken digits: which ones a clip says.

It learns from the judge's share of voices and recordings alone, which no model or tokenizer ever hears, and knows
nothing of any model. Its network is that of the recogniser, with columns of 20 ms, so that hidden states come every
40 ms: digits are longer than letters, and half of the time is saved.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from tqdm import tqdm

from ernie5.analysis.spoken_phrases import BANDS, MULTIPLE, Variety, log_mel, practice
from ernie5.config.audio_networks import MelNetworkConfig, MelTrainConfig, RecogniserConfig, check_recogniser
from ernie5.data.digits.bank import MAX_SECONDS, SAMPLE_RATE
from ernie5.data.digits.recordings import read_fsdd, split_recordings
from ernie5.data.digits.texts import NUMBER_WORDS
from ernie5.data.sounds import read_sound
from ernie5.errors import UserError
from ernie5.layers.network_folder import NetworkFolder
from ernie5.tokenizers.audio.mel_network import STATES_PER_FRAME, Steps, weight_shapes
from ernie5.tokenizers.audio.recogniser import BLANK, Recogniser, ctc_loss, edits, states_needed

Clip = tuple[np.ndarray, str]  # float32 [samples] at SAMPLE_RATE, and the digits said in it, "7" or "47"
SYMBOLS = tuple("0123456789")
NETWORK = MelNetworkConfig(sample_rate=SAMPLE_RATE, bands=BANDS, width=128)
TRAINING = MelTrainConfig(steps=900, batch_size=24, learning_rate=1e-3, dropout=0.05)
VOTES = (0.9, 1.0, 1.1)  # speeds at which a clip is heard
EDGE_SECONDS = 0.05  # of silence at both ends of what is heard
SILENT = 1e-4  # peak of a clip, of full scale, below which nothing is said
SHORTEST_SECONDS = 0.1  # of a clip that can be a digit
_DIGITS = {word: str(digit) for digit, word in enumerate(NUMBER_WORDS["en"])}
FOLDER = NetworkFolder(
    name="judge of spoken digits",
    model_type="ernie5_speech_judge",
    version=1,
    config_type=RecogniserConfig,
    check=check_recogniser,
    command="SpeechJudge.save",
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SpokenDigitError:
    """How far what is heard is from what should be said."""

    clips: int
    wrong: float  # share of clips not heard exactly
    digits: float  # insertions, deletions and substitutions (Levenshtein) over the digits expected, all clips together


class SpeechJudge:
    """A recogniser of digits (CTC), with a spectrogram of its own (`log_mel`)."""

    def __init__(self, recogniser: Recogniser):
        self._recogniser = recogniser
        recogniser.eval()

    @classmethod
    def train(
        cls,
        clips: Sequence[Clip],
        seed: int = 0,
        config: MelTrainConfig = TRAINING,
        variety: Variety | None = None,
    ) -> "SpeechJudge":
        """Learns from clips of one or several digits, most of them of one. The same clips and seed, the same judge.

        About a minute and a half of one core. UserError for clips that hold no digit, other signs, or no sound.
        """
        _check(clips)
        before = paddle.get_rng_state()
        paddle.seed(seed)
        try:
            recogniser = Recogniser(RecogniserConfig(network=NETWORK, symbols=SYMBOLS))
            _learn(recogniser, clips, config, variety or Variety(), np.random.default_rng(seed))
        finally:
            paddle.set_rng_state(before)
        return cls(recogniser)

    @paddle.no_grad()
    def digits(self, waveform: np.ndarray) -> str:
        """float32 [samples] at 8 kHz -> the digits heard, "" if none; the likeliest of what is heard at each speed.

        UserError for anything but finite numbers in one dimension.
        """
        if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating) or not np.isfinite(waveform).all():
            raise UserError(
                f"a clip is {waveform.dtype} {list(waveform.shape)} or not finite: give finite floats [samples]"
            )
        if len(waveform) < SHORTEST_SECONDS * SAMPLE_RATE or np.abs(waveform).max() < SILENT:
            return ""
        logits = [self._hear(_played(waveform, speed)) for speed in VOTES]
        heard = sorted({_collapsed(part.argmax(axis=1)) for part in logits})
        if len(heard) == 1:
            return heard[0]
        return min(heard, key=lambda digits: sum(_surprise(part, digits) for part in logits))

    def _hear(self, waveform: np.ndarray) -> np.ndarray:
        """Logits, float32 [states, 1 + digits]."""
        mel = paddle.to_tensor(log_mel(np.pad(waveform, round(EDGE_SECONDS * SAMPLE_RATE)), SAMPLE_RATE).T[None])
        return self._recogniser.head(self._recogniser.network(mel)).numpy()[0]

    def save(self, folder: Path | str) -> Path:
        """Writes weights and configuration, each aside and renamed."""
        return FOLDER.save(folder, self._recogniser.config, self._recogniser)

    @classmethod
    def load(cls, folder: Path | str) -> "SpeechJudge":
        """What `save` wrote. UserError: not such a folder, or its files do not agree."""
        return cls(FOLDER.load(folder, Recogniser, _shapes))


def _shapes(config: RecogniserConfig) -> Mapping[str, Sequence[int]]:
    head = {"head.weight": [config.network.width, 1 + len(config.symbols)]}
    return head | weight_shapes(config.network, "network")


def _check(clips: Sequence[Clip]) -> None:
    if not clips:
        raise UserError("the judge of spoken digits has no clip to learn from: give a world with speech, or recordings")
    for number, (sound, digits) in enumerate(clips):
        if not digits or set(digits) - set(SYMBOLS):
            raise UserError(f'clip {number} says "{digits}": give digits alone, at least one')
        if sound.ndim != 1 or len(sound) < len(digits) * SHORTEST_SECONDS * SAMPLE_RATE:
            raise UserError(
                f'clip {number} has shape {list(sound.shape)} and says "{digits}": give [samples], '
                f"{SHORTEST_SECONDS:g} s or more a digit at {SAMPLE_RATE} Hz"
            )


def _learn(
    recogniser: Recogniser,
    clips: Sequence[Clip],
    config: MelTrainConfig,
    variety: Variety,
    rng: np.random.Generator,
) -> None:
    recogniser.network.dropout = config.dropout
    steps = Steps(recogniser, config)
    batches = practice(clips, config.batch_size, SAMPLE_RATE, variety, rng)
    for step, phrases in zip(tqdm(range(config.steps), desc="speech judge", unit="step"), batches, strict=False):
        labels = [[SYMBOLS.index(digit) + 1 for digit in phrase.digits] for phrase in phrases]
        frames = [len(phrase.mel) // MULTIPLE for phrase in phrases]
        mel = np.zeros([len(phrases), BANDS, max(frames) * MULTIPLE], np.float32)
        for row, phrase in zip(mel, phrases, strict=True):
            row[:, : len(phrase.mel)] = phrase.mel.T
        lengths = paddle.to_tensor(frames, "int64")
        logits = recogniser.head(recogniser.network(paddle.to_tensor(mel), lengths))
        loss = ctc_loss(logits, lengths * STATES_PER_FRAME, labels)
        steps.take(loss)
        if (step + 1) % config.log_steps == 0:
            logger.info("speech judge: step %d of %d, loss %.3f", step + 1, config.steps, loss.item())


def _played(waveform: np.ndarray, speed: float) -> np.ndarray:
    """Faster or slower, its pitch with it."""
    if speed == 1:
        return waveform
    places = np.linspace(0, len(waveform) - 1, round(len(waveform) / speed))
    return np.interp(places, np.arange(len(waveform)), waveform)


def _collapsed(path: np.ndarray) -> str:
    """The digits of an alignment, int [states]: repeats and blanks left out."""
    firsts = np.flatnonzero(np.diff(path, prepend=BLANK))
    return "".join(SYMBOLS[symbol - 1] for symbol in path[firsts] if symbol != BLANK)


def _surprise(logits: np.ndarray, digits: str) -> float:
    """-log of the probability of the digits, summed over alignments; logits [states, 1 + digits]."""
    shares = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    labels = [SYMBOLS.index(digit) + 1 for digit in digits]
    if not labels:
        return float(-shares[:, BLANK].sum())
    if states_needed(labels) > len(logits):
        return float("inf")
    loss = ctc_loss(paddle.to_tensor(logits[None]), paddle.to_tensor([len(logits)], "int64"), [labels])
    return float(loss) * len(labels)


def spoken_digit_error(judge: SpeechJudge, clips: Sequence[np.ndarray], expected: Sequence[str]) -> SpokenDigitError:
    """Of clips, float32 [samples] at 8 kHz each, what each should say beside it. UserError if nothing is expected."""
    length = sum(map(len, expected))
    if not length:
        raise UserError("no digit is expected of any clip: give clips and the digits that they should say")
    heard = [judge.digits(clip) for clip in clips]
    pairs = list(zip(heard, expected, strict=True))
    return SpokenDigitError(
        clips=len(pairs),
        wrong=sum(found != wanted for found, wanted in pairs) / len(pairs),
        digits=sum(edits(found, wanted) for found, wanted in pairs) / length,
    )


def as_digits(text: str) -> str:
    """English number words as digits, "four seven" as "47"; "" if there is any other word."""
    words = text.casefold().split()
    return "".join(_DIGITS[word] for word in words) if all(word in _DIGITS for word in words) else ""


def judge_clips(
    index: Sequence[Mapping[str, str]] = (), folder: Path | str = "", recordings: str = "", held_out: str = ""
) -> list[Clip]:
    """What the judge learns from: rows of a world's index of sounds, whose paths are relative to `folder`, recordings,
    or both.

    Of the index English rows of the split "judge" that say digits alone are taken; of the folder of recorded digits
    the judge's share, none of the speaker `held_out`. UserError as `read_sound` and `split_recordings` do.
    """
    said = _said(index, folder, "judge")
    if recordings:
        chosen = split_recordings(read_fsdd(recordings), held_out)["judge"]
        said += [(recording.path, str(recording.digit)) for recording in chosen]
    return [(read_sound(path, SAMPLE_RATE, MAX_SECONDS), digits) for path, digits in said]


def held_out_clips(index: Sequence[Mapping[str, str]], folder: Path | str) -> dict[str, list[Clip]]:
    """English clips of digits alone of the split "test" of a world, by their source: espeak or recorded."""
    return {
        source: [(read_sound(path, SAMPLE_RATE, MAX_SECONDS), digits) for path, digits in said]
        for source in ("espeak", "recorded")
        if (said := _said([row for row in index if row["source"] == source], folder, "test"))
    }


def _said(index: Sequence[Mapping[str, str]], folder: Path | str, split: str) -> list[tuple[str, str]]:
    """Paths of English sounds of a split that say digits alone, and the digits."""
    said = [
        (str(Path(folder) / row["sound"]), as_digits(row["text"]))
        for row in index
        if row["split"] == split and row["language"] == "en"
    ]
    return [(path, digits) for path, digits in said if digits]
