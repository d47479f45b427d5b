"""Speech by next-codec prediction (report §2.3): a frame of codes at each position, its levels layer after layer."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import paddle

from ernie5.config.audio_tokenizer import FRAMES_PER_SECOND
from ernie5.config.schema import AudioSamplingConfig
from ernie5.data.sample import Segment
from ernie5.inference.coders import require_audio
from ernie5.inference.decoding import Decoding, evaluating
from ernie5.inference.prompt import read_prompts
from ernie5.inference.sampling import is_guided, moved, sample
from ernie5.modality.batch import Coders
from ernie5.modality.token_layout import TO_THE_END
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet
from ernie5.tokenizers.audio.tokenizer import AudioTokenizer
from ernie5.tokenizers.text import TextTokenizer
from ernie5.tokenizers.vision.causal_conv import Stream


class Sound(NamedTuple):
    samples: np.ndarray  # float32 [samples], in [-1, 1]
    sample_rate: int  # Hz


def speak(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    coders: Coders,
    prompts: Sequence[Sequence[Segment]],
    config: AudioSamplingConfig,
    seed: int = 0,
    subnet: Subnet | None = None,
) -> list[np.ndarray]:
    """What the model says behind each prompt, float32 [samples] in [-1, 1] at the rate of the model, all together.

    Raises UserError for a model or coders without audio, and for media of a prompt as `read_prompts` does.
    """
    codec = require_audio(coders, model).tokenizer
    if not prompts:
        return []
    with evaluating(model):
        speaking = _begin(model, tokenizer, coders, prompts, config, seed, subnet)
        frames = np.stack(list(speaking.frames(tokenizer.special_ids["<boa>"])), axis=1)
    return to_waveforms(codec, frames)


def speak_stream(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    coders: Coders,
    prompt: Sequence[Segment],
    config: AudioSamplingConfig,
    seed: int = 0,
    subnet: Subnet | None = None,
) -> Iterator[np.ndarray]:
    """As `speak` of one prompt, while it is said: yields the 80 ms of each frame, which make up the same waveform."""
    codec, stream = require_audio(coders, model).tokenizer, Stream()
    with evaluating(model):
        speaking = _begin(model, tokenizer, coders, [prompt], config, seed, subnet)
        for codes in speaking.frames(tokenizer.special_ids["<boa>"]):
            yield codec.decode(paddle.to_tensor(codes[:, None]), stream).numpy()[0]


class Speaking:
    """Sounds that are spoken behind the rows of `decoding`, one each, in step.

    The first level decides whether a sound has ended, and the others follow it, as they do in training. Frames of a row
    that has ended are hidden from what comes behind.
    """

    def __init__(self, decoding: Decoding, config: AudioSamplingConfig, rng: np.random.Generator):
        """Guided if the configuration says so: the second half of the rows is then what `branch` made."""
        self.decoding, self.config, self.rng = decoding, config, rng
        self.audio = decoding.model.audio
        self._halves = 2 if is_guided(config) else 1
        self._taps = self.audio.taps(
            decoding.model.config.num_hidden_layers, paddle.arange(decoding.num_rows), self._choose
        )
        self._codes = np.zeros([decoding.num_rows // self._halves, self.audio.num_levels], np.int64)
        self._ended = np.zeros(len(self._codes), bool)
        self._max_frames = max(1, round(config.max_seconds * FRAMES_PER_SECOND))
        self._num_frames = 0

    def frames(self, begin_id: int) -> Iterator[np.ndarray]:
        """Reads the mark of the beginning; yields the next frame of each row, codes int64 [rows, levels], to the end.

        The codes of a row that has ended are `codebook_size`.
        """
        self.decoding.read_words(np.full(self.decoding.num_rows, begin_id), self._taps)
        while not self._ended.all():
            self._num_frames += 1
            yield self._codes.copy()
            self._read_frame()

    def end(self, end_id: int) -> paddle.Tensor:
        """Reads the mark of the end behind the last frame of each row; [rows, hidden]."""
        return self.decoding.read_words(np.full(self.decoding.num_rows, end_id))

    @paddle.no_grad()
    def _read_frame(self) -> None:
        decoding = self.decoding
        embedded = self.audio.embed(paddle.to_tensor(self._of_all_rows(self._codes))).unsqueeze(1)
        ended = self._of_all_rows(self._ended)
        decoding.read(
            embedded,
            np.repeat(decoding.position[:, None, None], 3, axis=-1),
            np.zeros([1, 1], np.int64),
            np.where(ended, 1, TO_THE_END)[:, None],
            self._taps,
        )
        decoding.position = decoding.position + ~ended

    def _choose(self, logits: paddle.Tensor, level: int) -> paddle.Tensor:
        """Draws the next code of each row from [rows, codebook_size + 1]; the halves of guidance get the same ones."""
        odds, end = logits.astype("float32").numpy(), self.audio.end_code
        if self._halves == 2:
            odds = moved(odds, self.config.guidance)
        if level or not self._num_frames:  # a sound has a frame
            odds[:, end] = -np.inf
        codes = sample(odds, self.config, self.rng)
        if not level:
            self._ended |= (codes == end) | (self._num_frames == self._max_frames)
        self._codes[:, level] = np.where(self._ended, end, codes)
        return paddle.to_tensor(self._of_all_rows(self._codes[:, level]))

    def _of_all_rows(self, array: np.ndarray) -> np.ndarray:
        return np.concatenate([array] * self._halves)


def to_waveforms(codec: AudioTokenizer, frames: np.ndarray) -> list[np.ndarray]:
    """Codes int64 [rows, frames, levels], `codebook_size` behind the end of a row -> float32 [samples] of each row."""
    is_sound = frames[..., 0] != codec.config.codebook_size
    waveforms = codec.decode(paddle.to_tensor(np.where(is_sound[..., None], frames, 0))).numpy()
    lengths = is_sound.sum(1) * codec.config.frame_size
    return [waveform[:length] for waveform, length in zip(waveforms, lengths, strict=True)]


def _begin(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    coders: Coders,
    prompts: Sequence[Sequence[Segment]],
    config: AudioSamplingConfig,
    seed: int,
    subnet: Subnet | None,
) -> Speaking:
    """Behind prompts that have been read."""
    decoding, _ = read_prompts(model, tokenizer, prompts, subnet, coders)
    if is_guided(config):
        decoding.branch()
    return Speaking(decoding, config, np.random.default_rng(seed))
