"""A request that is being answered: what its loops share."""

from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from ernie5.inference.page_pool import PagePool
from ernie5.inference.paged_sequence import PagedSequence
from ernie5.inference.reading import Answer, Draft, Reads, words_of
from ernie5.inference.request import Request, Sound
from ernie5.modality.batch import Coders
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.tokenizers.text import TextTokenizer

# Yields what it wants read, is sent the answers, and returns something of its own.
Loop = Generator[Reads | Draft, list[Answer] | int, Any]


class Task:
    """What is known of a request while it is answered.

    All that is drawn at random goes through `choose`. So an answer that has lost its pages can be begun anew: up to
    where it was, it chooses what it chose before, whatever rounding says, and nothing is told twice.
    """

    def __init__(
        self,
        model: Ernie5ForCausalLM,
        tokenizer: TextTokenizer,
        coders: Coders,
        request: Request,
        pool: PagePool,
        speculates: bool = False,
    ):
        self.model, self.tokenizer, self.coders, self.request = model, tokenizer, coders, request
        self.speculates = speculates
        self.cancelled = False
        self.answers: dict[int, Answer] = {}  # of reads that are done, while others of the same step are not
        self.drafted = self.accepted = 0  # guesses of the prediction block
        self._pool = pool
        self._rng = np.random.default_rng(request.seed)
        self._chosen: list[np.ndarray] = []
        self._pieces: list[str | np.ndarray | Sound] = []
        self._told = 0  # pieces that have been taken
        self.sequences: list[PagedSequence] = []
        self.begin_anew()

    def begin_anew(self) -> None:
        """Gives all pages back and forgets what has been read."""
        self.close()
        self._choices = self._spoken = 0
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self.reason = "stop"
        self.answers = {}

    def close(self) -> None:
        """Gives all pages back."""
        for sequence in self.sequences:
            sequence.close()
        self.sequences = []

    def open_sequence(self) -> PagedSequence:
        """One more sequence in pages of its own."""
        self.sequences.append(PagedSequence(self._pool))
        return self.sequences[-1]

    def open_unconditional(self) -> Loop:
        """One more sequence that has read `<s>` alone: the unconditional side of guidance. Returns it."""
        sequence = self.open_sequence()
        yield Reads([words_of(sequence, [self.tokenizer.bos_id], head="none")])
        return sequence

    def close_sequence(self, sequence: PagedSequence) -> None:
        """Gives its pages back."""
        sequence.close()
        self.sequences.remove(sequence)

    def choose(self, draw: Callable[[np.random.Generator], np.ndarray]) -> np.ndarray:
        """What `draw` gives, or what it gave here before the answer was begun anew."""
        if self._choices == len(self._chosen):
            self._chosen.append(draw(self._rng))
        self._choices += 1
        return self._chosen[self._choices - 1]

    def tell(self, piece: "str | np.ndarray | Sound") -> None:
        """A piece of the answer, unless it has been told before."""
        if isinstance(piece, str) and not piece:
            return
        if self._spoken == len(self._pieces):
            self._pieces.append(piece)
        self._spoken += 1

    def take_pieces(self) -> "list[str | np.ndarray | Sound]":
        """Those that have not been taken yet."""
        new = self._pieces[self._told :]
        self._told = len(self._pieces)
        return new
