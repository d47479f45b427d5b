"""Speech by next-codec prediction (report §2.3): a frame of codes at each position, its levels layer after layer."""

from collections.abc import Sequence

import numpy as np
import paddle

from ernie5.config.audio_tokenizer import FRAMES_PER_SECOND
from ernie5.inference.paged_sequence import PagedSequence
from ernie5.inference.reading import Embedded, Read, Reads, words_of
from ernie5.inference.request import Sound
from ernie5.inference.sampling import is_guided, moved, sample
from ernie5.inference.task import Loop, Task
from ernie5.inference.write import Writer
from ernie5.tokenizers.audio.tokenizer import AudioTokenizer
from ernie5.tokenizers.vision.causal_conv import Stream


def speak(task: Task, writer: Writer, codec: AudioTokenizer, marks: tuple[int, int], streams: bool = False) -> Loop:
    """Speaks behind what `writer` has read, and tells it, a `Sound`; with `streams`, the 80 ms of each frame.

    marks: ids of its beginning and end. Returns the logits behind the end.
    """
    writer.stop_speculating()
    branches, config = [writer.sequence], task.request.config.audio
    if is_guided(config):
        branches.append((yield from task.open_unconditional()))
    speaking, frames, stream = Speaking(task, branches), [], Stream()
    codes = yield from speaking.begin(marks[0])
    while codes is not None:
        frames.append(codes)
        if streams:
            samples = codec.decode(paddle.to_tensor(codes[None, None]), stream).numpy()[0]
            task.tell(Sound(samples, codec.config.sample_rate))
        codes = yield from speaking.next_frame()
    if not streams:
        task.tell(Sound(to_waveforms(codec, np.stack(frames)[None])[0], codec.config.sample_rate))
    for sequence in branches[1:]:
        task.close_sequence(sequence)
    (answer,) = yield Reads([words_of(writer.sequence, [marks[1]])])
    return answer.values[0]


class Speaking:
    """A sound that is spoken behind sequences which stand for one: the prompt's, and with guidance an unconditional.

    The first level decides whether the sound has ended, and the others follow it, as they do in training.
    """

    def __init__(self, task: Task, branches: Sequence[PagedSequence]):
        self.branches = branches
        self._task, self._config = task, task.request.config.audio
        self.audio = task.model.audio
        self._codes = np.zeros(self.audio.num_levels, np.int64)
        self._ended = False
        self._max_frames = max(1, round(self._config.max_seconds * FRAMES_PER_SECOND))
        self._num_frames = 0

    def begin(self, begin_id: int) -> Loop:
        """Reads the mark of the beginning; returns the codes int64 [levels] of the first frame."""
        yield Reads([words_of(sequence, [begin_id], head="none") for sequence in self.branches], self._choose)
        return self._counted()

    def next_frame(self) -> Loop:
        """Reads the frame; returns the codes of the next one, None if the sound has ended."""
        embedded = Embedded(self.audio.embed(paddle.to_tensor(self._codes[None])))
        reads = [Read(sequence, embedded, sequence.word_places(1), head="none") for sequence in self.branches]
        yield Reads(reads, self._choose)
        return self._counted()

    def _counted(self) -> np.ndarray | None:
        if self._ended:
            return None
        self._num_frames += 1
        self._task.completion_tokens += 1
        return self._codes.copy()

    def _choose(self, odds: np.ndarray, level: int) -> np.ndarray:
        """The next code of the sound from [branches, codebook_size + 1]; all branches get the same one."""
        end = self.audio.end_code
        if len(odds) == 2:
            odds = moved(odds, self._config.guidance)
        if level or not self._num_frames:  # a sound has a frame
            odds[:, end] = -np.inf
        code = self._task.choose(lambda rng: sample(odds, self._config, rng)[0])
        if not level:
            self._ended = code == end or self._num_frames == self._max_frames
        self._codes[level] = end if self._ended else code
        return np.full(len(self.branches), self._codes[level])


def to_waveforms(codec: AudioTokenizer, frames: np.ndarray) -> list[np.ndarray]:
    """Codes int64 [rows, frames, levels], `codebook_size` behind the end of a row -> float32 [samples] of each row."""
    is_sound = frames[..., 0] != codec.config.codebook_size
    waveforms = codec.decode(paddle.to_tensor(np.where(is_sound[..., None], frames, 0))).numpy()
    lengths = is_sound.sum(1) * codec.config.frame_size
    return [waveform[:length] for waveform, length in zip(waveforms, lengths, strict=True)]
