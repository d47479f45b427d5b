"""Text, word by word; where the model begins a picture, a film or a sound, that is made, and text goes on."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import paddle

from ernie5.data.sample import Message
from ernie5.inference.constraints import Guide
from ernie5.inference.prompt import Prompt
from ernie5.inference.reading import Draft, Read, Reads, words_of
from ernie5.inference.sampling import penalised, sample
from ernie5.inference.stop_text import StopText
from ernie5.inference.task import Loop, Task

# Makes a medium behind the sequence, from the mark of its beginning to that of its end, and tells it;
# returns the logits behind.
MakeMedium = Callable[["Writer", int], Loop]


class Writer:
    """Reads the words of a sequence, with the prediction block's guesses ahead where the engine speculates."""

    def __init__(self, task: Task, prompt: Prompt):
        self.task, self.sequence = task, task.open_sequence()
        self._prompt = prompt
        self._speculates = task.speculates
        self._ahead: tuple[int, np.ndarray, paddle.Tensor] | None = None  # a word read on suspicion, what it says
        # Pairs that the prediction block has not read: of tokens that were, and of those behind them.
        self._residuals: list[paddle.Tensor] = []
        self._following: list[paddle.Tensor] = []
        self._positions: list[np.ndarray] = []

    def read_prompt(self) -> Loop:
        """Returns logits float32 [vocab] behind it."""
        prompt, task = self._prompt, self.task
        known = prompt.begin(self.sequence)
        task.prompt_tokens, task.cached_tokens = len(prompt), known
        read = Read(self.sequence, prompt, prompt.places, done=known, wants_residual=self._speculates)
        (answer,) = yield Reads([read])
        if self._speculates:
            self._residuals.append(answer.residual)
            self._positions.append(prompt.places.positions[known:])
            if len(prompt) - known > 1:
                self._following.append(prompt.embedded(task.model, known + 1, len(prompt)))
        return answer.values[0]

    def read_word(self, word: int) -> Loop:
        """Returns logits float32 [vocab] behind it."""
        if self._ahead is not None:
            guess, logits, residual = self._ahead
            if guess == word:
                self._ahead = None
                self.task.accepted += 1
                self._expect(word, residual)
                return logits
        self.settle()
        if not self._speculates:
            (answer,) = yield Reads([words_of(self.sequence, [word])])
            return answer.values[0]
        self._following.append(self._embed(word))
        pairs = Draft(
            self.sequence,
            paddle.concat(self._residuals),
            paddle.concat(self._following),
            np.concatenate(self._positions),
        )
        guess = yield pairs
        self.task.drafted += 1
        position = self.sequence.position
        (answer,) = yield Reads([words_of(self.sequence, [word, guess], wanted=2, wants_residual=True)])
        self._residuals, self._following = [answer.residual[:1]], []
        self._positions = [np.full([1, 3], position, np.float32)]
        self._ahead = guess, answer.values[1], answer.residual[1:]
        return answer.values[0]

    def settle(self) -> None:
        """Takes back what was read on suspicion."""
        if self._ahead is not None:
            self.sequence.drop_last()
            self._ahead = None

    def stop_speculating(self) -> None:
        """Before something is read that the prediction block does not see."""
        self.settle()
        self._speculates = False

    def _expect(self, word: int, residual: paddle.Tensor) -> None:
        """The guess was right: its pair is known now."""
        self._following.append(self._embed(word))
        self._residuals.append(residual)
        self._positions.append(np.full([1, 3], self.sequence.position - 1, np.float32))

    def _embed(self, word: int) -> paddle.Tensor:
        return self.task.model.text.embed(paddle.to_tensor([word]))


def write(task: Task, prompt: Prompt, guide: Guide | None, media: dict[int, MakeMedium]) -> Loop:
    """Tells text and what `media` make behind their marks, until `</s>`, a stop text or max_new_tokens words.

    A turn of a chat ends with `<|end|>` too.
    """
    request, config, ends = task.request, task.request.config, {task.tokenizer.eos_id}
    if any(isinstance(part, Message) for part in request.prompt):
        ends.add(task.tokenizer.special_ids["<|end|>"])
    stream, stop = task.tokenizer.stream(), StopText(request.stop)
    writer, ids = Writer(task, prompt), []

    def read_media(mark: int) -> Loop:
        task.tell(stop.push(stream.finish()) + stop.finish())  # what was held back stands before the medium
        return (yield from media[mark](writer, mark))

    logits = yield from writer.read_prompt()
    task.reason = "length"
    for _ in range(config.max_new_tokens):
        if ids:
            logits = yield from (read_media if ids[-1] in media else writer.read_word)(ids[-1])
        word = int(task.choose(partial(_draw, task, logits, prompt.ids, ids, guide)))
        ids.append(word)
        task.completion_tokens += 1
        if guide is not None:
            guide.take(word)
        if word in ends:
            task.reason = "stop"
            break
        task.tell(stop.push(stream.push(word)))
        if stop.found:
            task.reason = "stop"
            break
    else:
        if ids and ids[-1] in media:
            yield from read_media(ids[-1])
    if not stop.found:
        task.tell(stop.push(stream.finish()) + stop.finish())


def write_ids(task: Task, prompt: Prompt, eos_id: int | None) -> Loop:
    """Tells ids instead of text, the last one `eos_id` if it comes."""
    writer, word = Writer(task, prompt), None
    logits = yield from writer.read_prompt()
    for _ in range(task.request.config.max_new_tokens):
        if word is not None:
            logits = yield from writer.read_word(word)
        word = int(task.choose(partial(_draw, task, logits, prompt.ids, (), None)))
        task.tell(word)
        if word == eos_id:
            return


def _draw(
    task: Task,
    logits: np.ndarray,
    prompt_ids: Sequence[int],
    ids: Sequence[int],
    guide: Guide | None,
    rng: np.random.Generator,
) -> np.int64:
    logits = penalised(logits, task.request.penalties, prompt_ids, ids)
    if guide is not None:
        allowed = guide.allowed()
        logits = np.where(allowed, logits[: len(allowed)], np.float32(-np.inf))
    return sample(logits[None], task.request.config, rng)[0]
