"""What loops of generation want read, and the step that reads it for many of them at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import paddle

from ernie5.inference.paged_sequence import PagedSequence, Places, records_of
from ernie5.layers.layout import Layout
from ernie5.layers.pages import PagedMask, Pages, Row
from ernie5.layers.rope import rotation_of_few
from ernie5.modality.token_layout import TO_THE_END
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet

# (logits float32 [reads, codebook_size + 1], level) -> the code int64 [reads] that counts as predicted
ChooseCode = Callable[[np.ndarray, int], np.ndarray]
Head = Literal["words", "bits", "none"]


class Tokens(Protocol):
    """Tokens that are about to be read."""

    def __len__(self) -> int: ...

    def embedded(self, model: Ernie5ForCausalLM, first: int, last: int) -> paddle.Tensor:
        """[last - first, hidden] of the tokens [first, last)."""

    def records(self, places: Places, first: int, last: int) -> np.ndarray | None:
        """As `PagedSequence.add` takes them."""


@dataclass(eq=False)
class Read:
    """The next tokens of a sequence, and what is asked of the last `wanted` of them."""

    sequence: PagedSequence
    tokens: Tokens
    places: Places
    head: Head = "words"
    wanted: int = 1
    wants_residual: bool = False  # of all tokens, for the prediction block
    done: int = 0  # tokens that have been read
    residuals: list[paddle.Tensor] = field(default_factory=list)  # of those that were, as far as they are wanted

    @property
    def left(self) -> int:
        return len(self.tokens) - self.done

    def next_end(self, most: int) -> int:
        """Behind the tokens that are read next: at most so many, unless more of them see each other."""
        if self.left <= most:
            return len(self.tokens)
        first_number = self.sequence.number - self.done
        reaching = (
            np.minimum.accumulate(self.places.seen_from[::-1])[::-1] - first_number
        )  # the first that any later one shows itself to
        ends = np.flatnonzero(reaching >= np.arange(len(reaching)))
        below = ends[(ends > self.done) & (ends <= self.done + most)]
        above = ends[ends > self.done]
        return int(below[-1] if below.size else above[0] if above.size else len(self.tokens))


class Answer(NamedTuple):
    """What a `Read` gets when all of it has been read."""

    values: np.ndarray | None  # float32 [wanted, ...]: logits of words, or log-odds of bits
    residual: paddle.Tensor | None  # [tokens, hidden] of all that were read, before the final norm


@dataclass(eq=False)
class Reads:
    """Of one loop, for one step. With `choose`, codes of a frame of sound are drawn behind the last token of each."""

    reads: Sequence[Read]
    choose: ChooseCode | None = None


@dataclass(eq=False)
class Draft:
    """Of one loop: what is the word behind the one that is about to be read? It gets an int, a guess.

    Token i of the k last ones that the sequence has read goes into the prediction block with the token behind it.
    """

    sequence: PagedSequence
    residual: paddle.Tensor  # [k, hidden] of the tokens, before the final norm
    following: paddle.Tensor  # [k, hidden]: the tokens behind them, embedded
    positions: np.ndarray  # float32 [k, 3] of the tokens


class Piece(NamedTuple):
    """The part of a read that a step takes."""

    read: Read
    last: int  # token behind it
    embedded: paddle.Tensor | None = None  # [tokens, hidden]; None: they are words, which are looked up together

    @property
    def num_tokens(self) -> int:
        return self.last - self.read.done

    def with_embedded(self, model: Ernie5ForCausalLM) -> "Piece":
        """With what the layers take of it; media are encoded here."""
        if isinstance(self.read.tokens, Words):
            return self
        return self._replace(embedded=self.read.tokens.embedded(model, self.read.done, self.last))


class Reader:
    """Runs the layers of a model over pages, for any number of sequences at once."""

    def __init__(self, model: Ernie5ForCausalLM, subnet: Subnet, pages: Pages, draft_pages: Pages | None = None):
        """draft_pages: of the prediction block, with the numbering of `pages`."""
        self.model, self.subnet, self.pages, self.draft_pages = model, subnet, pages, draft_pages
        self.expert_use: dict[int, np.ndarray] = {}  # layer id -> int64 [experts]: tokens that it has been asked for

    @paddle.no_grad()
    def run(self, pieces: Sequence[Piece], speaking: Sequence[tuple[Sequence[int], ChooseCode]] = ()) -> list[Answer]:
        """Reads the pieces, embedded; an answer for each, without values where its read is not at its end.

        speaking: the places in `pieces` of the reads of a loop that speaks, which are at their ends, and its choice.
        """
        rows, positions = [], []
        for read, last, _ in pieces:
            places = Places(*(array[read.done : last] for array in read.places))
            records = read.tokens.records(places, read.done, last)
            rows.append(read.sequence.add(last - read.done, places, records))
            positions.append(places.positions)
        ends = np.cumsum([row.tokens for row in rows])
        layout = Layout(
            PagedMask(rows, self.pages), rotation_of_few(np.concatenate(positions)[None], self.model.config.attention)
        )
        if not speaking and all(embedded is None and read.head != "bits" for read, _, embedded in pieces):
            asked = _Asked("words", pieces, ends)
            ids = np.concatenate([read.tokens.ids[read.done : last] for read, last, _ in pieces])
            decoded, logits = self.model.read_words(ids, layout, self.subnet, self.pages.layers, asked.tokens)
            values = asked.split(logits)
        else:
            embedded, taps = self._embedded(pieces), None
            if speaking:
                spoken = paddle.to_tensor(np.concatenate([ends[list(places)] - 1 for places, _ in speaking]))
                taps = self.model.audio.taps(self.model.config.num_hidden_layers, spoken, _choose_all(speaking))
            decoded = self.model.decoder(embedded.unsqueeze(0), layout, self.subnet, self.pages.layers, taps)
            values = self._values(pieces, decoded.hidden_states.squeeze(0), ends)
        self._count(decoded.tokens_per_expert)
        answers = []
        for place, (read, last, _) in enumerate(pieces):
            read.done = last
            if read.wants_residual:
                read.residuals.append(decoded.residual[0, ends[place] - rows[place].tokens : ends[place]])
            residual = paddle.concat(read.residuals) if read.residuals and not read.left else None
            answers.append(Answer(values.get(place), residual))
            read.sequence.was_read()
        return answers

    @paddle.no_grad()
    def guess(self, drafts: Sequence[Draft]) -> list[int]:
        """The words after the next. In the block's pages, the key of a pair stands where its second token's stands.

        So it depends on nothing behind its place, and a page that is found again has those of its texts too.
        """
        rows = []
        for draft in drafts:
            draft.sequence.reserve(1)
            row = draft.sequence.row_of_pairs(len(draft.positions))
            if row.kept == 1:  # before the first pair there is none
                self.draft_pages.mark(Row(1, 0, 0, row.pages), 0, 0)
            self.draft_pages.mark(row, row.number + np.arange(row.tokens), TO_THE_END)
            rows.append(row)
        positions = np.concatenate([draft.positions for draft in drafts])[None]
        layout = Layout(PagedMask(rows, self.draft_pages), rotation_of_few(positions, self.model.config.attention))
        residual, following = (
            paddle.concat(of).unsqueeze(0) for of in zip(*((d.residual, d.following) for d in drafts), strict=True)
        )
        layer = self.draft_pages.layers[self.model.mtp.layer_id]
        hidden = self.model.predict_second_next(residual, following, layout, self.subnet, layer).hidden_states[0]
        last = np.cumsum([row.tokens for row in rows]) - 1
        return self.model.logits(paddle.gather(hidden, paddle.to_tensor(last))).astype("float32").argmax(-1).tolist()

    def _embedded(self, pieces: Sequence[Piece]) -> paddle.Tensor:
        """[tokens, hidden]; runs of words are looked up together."""
        parts, ids = [], []
        for read, last, embedded in pieces:
            if embedded is None:
                ids.append(read.tokens.ids[read.done : last])
                continue
            if ids:
                parts.append(self.model.text.embed(paddle.to_tensor(np.concatenate(ids))))
                ids = []
            parts.append(embedded)
        if ids:
            parts.append(self.model.text.embed(paddle.to_tensor(np.concatenate(ids))))
        return paddle.concat(parts) if len(parts) > 1 else parts[0]

    def _values(self, pieces: Sequence[Piece], hidden: paddle.Tensor, ends: np.ndarray) -> dict[int, np.ndarray]:
        """By place in `pieces`, what the heads say of the reads that end."""
        found = {}
        for head, function in (("words", self.model.logits), ("bits", self._bits)):
            asked = _Asked(head, pieces, ends)
            if len(asked.tokens):
                states = (
                    hidden
                    if len(asked.tokens) == len(hidden)
                    else paddle.gather(hidden, paddle.to_tensor(asked.tokens))
                )
                found |= asked.split(function(states))
        return found

    def _bits(self, hidden: paddle.Tensor) -> paddle.Tensor:
        return self.model.vision_generation.logits(hidden)

    def _count(self, loads: dict[int, paddle.Tensor]) -> None:
        for layer_id, load in loads.items():
            self.expert_use[layer_id] = self.expert_use.get(layer_id, 0) + np.asarray(load)


class _Asked:
    """What is asked of a head: `tokens` int64 [n], their numbers in the step, of the reads that end with it."""

    def __init__(self, head: Head, pieces: Sequence[Piece], ends: np.ndarray):
        """ends: behind the last token of each piece."""
        self._places = [i for i, (read, last, _) in enumerate(pieces) if read.head == head and last == len(read.tokens)]
        self._wanted = [pieces[place].read.wanted for place in self._places]
        numbers = [np.arange(ends[i] - count, ends[i]) for i, count in zip(self._places, self._wanted, strict=True)]
        self.tokens = np.concatenate(numbers) if numbers else np.zeros([0], np.int64)

    def split(self, values: paddle.Tensor) -> dict[int, np.ndarray]:
        """Values [n, ...] by place in the pieces, as float32."""
        parts = np.split(values.astype("float32").numpy(), np.cumsum(self._wanted)[:-1]) if self._places else []
        return dict(zip(self._places, parts, strict=True))


class Words:
    """Ids of the vocabulary."""

    def __init__(self, ids: Sequence[int] | np.ndarray):
        self.ids = np.asarray(ids, np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def embedded(self, model: Ernie5ForCausalLM, first: int, last: int) -> paddle.Tensor:
        return model.text.embed(paddle.to_tensor(self.ids[first:last]))

    def records(self, places: Places, first: int, last: int) -> np.ndarray:

        return records_of(self.ids[first:last], places)


class Embedded:
    """Tokens that a loop has embedded, [n, hidden]: cells of a picture, frames of a sound."""

    def __init__(self, states: paddle.Tensor):
        self.states = states

    def __len__(self) -> int:
        return self.states.shape[0]

    def embedded(self, model: Ernie5ForCausalLM, first: int, last: int) -> paddle.Tensor:
        return self.states[first:last]

    def records(self, places: Places, first: int, last: int) -> None:
        return None


def _choose_all(speaking: Sequence[tuple[Sequence[int], ChooseCode]]) -> Callable[[paddle.Tensor, int], paddle.Tensor]:
    """One choice for the loops together, each of its own rows."""
    cuts = np.cumsum([len(places) for places, _ in speaking])[:-1]

    def choose(logits: paddle.Tensor, level: int) -> paddle.Tensor:
        parts = np.split(logits.astype("float32").numpy(), cuts)
        return paddle.to_tensor(
            np.concatenate([own(part, level) for part, (_, own) in zip(parts, speaking, strict=True)])
        )

    return choose


def words_of(sequence: PagedSequence, ids: Sequence[int], **asked: Any) -> Read:
    """Reads words behind what the sequence has."""
    return Read(sequence, Words(ids), sequence.word_places(len(ids)), **asked)
