"""A sample becomes ids: the one place where that happens, for training, evaluation and prompts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from ernie5.data.audible import EncodedSound
from ernie5.data.films import MissingReader
from ernie5.data.manifest import BadLine
from ernie5.data.media_settings import TEXT_ALONE, MediaSettings
from ernie5.data.sample import Audio, Image, Message, Sample, Segment, Text, Video
from ernie5.data.shuffle import derive_key
from ernie5.data.visual import EncodedMedium
from ernie5.errors import UserError
from ernie5.modality.token_layout import TO_THE_END
from ernie5.modality.unified import SoundMedium, TokenKind, VisualMedium

# Marks of a medium's beginning and end, and what holds its places (report, Figures 2 and 3).
_MARKS = {
    Image: ("<boi>", "<image>", "<eoi>"),
    Video: ("<bov>", "<video>", "<eov>"),
    Audio: ("<boa>", "<audio>", "<eoa>"),
}


class Tokenizer(Protocol):
    """What data needs of a tokenizer; `ernie5.tokenizers.text.TextTokenizer` is one."""

    bos_id: int
    eos_id: int
    pad_id: int
    special_ids: Mapping[str, int]

    def encode(self, text: str, bpe_dropout: float = 0.0, seed: int | None = None) -> list[int]: ...

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]]) -> list[tuple[list[int], bool]]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where the tokens of a sample with media stand and who sees them; all counted from the sample's first token."""

    positions: np.ndarray  # float32 [length, 3]: t, h, w
    group_start: np.ndarray  # int64 [length]: first token of the group in which all see each other
    hidden_from: np.ndarray  # int64 [length]: first token that no longer sees this one, or TO_THE_END
    kinds: np.ndarray  # int8 [length], TokenKind
    media: tuple[VisualMedium | SoundMedium, ...]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedSample:
    """The ids of a sample, `<s>` and `</s>` included where the document begins and ends in it."""

    ids: np.ndarray  # int64 [length]; a placeholder where a medium stands
    loss: np.ndarray  # bool [length]: whether predicting this token counts
    num_bytes: int  # of the text that carries loss, in UTF-8: the denominator of bits per byte
    origin: str
    places: Places | None = None  # of a sample with media; text alone is causal and counts its positions up

    def __len__(self) -> int:
        return len(self.ids)


class _Part(NamedTuple):
    """A run of ids that carry loss together, or a medium's."""

    ids: list[int]
    loss: bool
    medium: EncodedMedium | EncodedSound | None = None

    @property
    def is_generated(self) -> bool:
        """Whether it is a medium that is a target."""
        return self.medium is not None and self.medium.is_generated


def encode_sample(
    sample: Sample,
    tokenizer: Tokenizer,
    bpe_dropout: float = 0.0,
    seed: int = 0,
    media: MediaSettings = TEXT_ALONE,
) -> EncodedSample:
    """Sample -> ids. BPE-dropout (arXiv:1910.13267) is a function of `seed`; chats are encoded without it.

    `</s>` carries loss if what stands before it does. What is drawn at random for media (guidance's dropout of the
    condition, masked frames, flip rates) is a function of `seed` too. Raises BadLine for a medium that cannot be read,
    and UserError for media that the model does not take.
    """
    for segment in sample.all_segments():
        if not isinstance(segment, Text):
            media.require(segment, sample.origin)
    encoder = _Encoder(tokenizer, bpe_dropout, seed, media, sample.origin)
    parts = list(encoder.chat(sample.messages) if sample.messages else encoder.segments(sample.segments))
    first_generated = next((i for i, part in enumerate(parts) if part.is_generated), None)
    if first_generated is not None and encoder.drops_condition(parts[first_generated]):
        begin = parts[first_generated - 1]._replace(loss=False)  # BOI
        parts = [begin, *parts[first_generated:]]
    if sample.begins and not (parts and parts[0].ids[:1] == [tokenizer.bos_id]):  # a chat template may bring its own
        parts.insert(0, _Part([tokenizer.bos_id], False))
    if sample.ends:
        # Behind a generated sound the mark of its end carries none: the heads of audio predict it.
        loss = len(parts) == 1 or parts[-1].loss or parts[-2].is_generated
        parts.append(_Part([tokenizer.eos_id], loss))
    elif sample.messages:
        parts.append(_Part([tokenizer.special_ids["<|assistant|>"]], False))
    return EncodedSample(
        ids=np.array([token for part in parts for token in part.ids], dtype=np.int64),
        loss=np.repeat([part.loss for part in parts], [len(part.ids) for part in parts]).astype(bool),
        num_bytes=_loss_bytes(sample),
        origin=sample.origin,
        places=_places(parts, sample.origin) if any(part.medium for part in parts) else None,
    )


class _Encoder:
    """The parts of one sample, in order."""

    def __init__(self, tokenizer: Tokenizer, bpe_dropout: float, seed: int, media: MediaSettings, origin: str):
        self.tokenizer, self.bpe_dropout, self.seed = tokenizer, bpe_dropout, seed
        self.media, self.origin = media, origin

    def drops_condition(self, generated: _Part) -> bool:
        rng = np.random.default_rng(derive_key(self.seed, "condition"))
        return rng.random() < self.media.condition_dropout(generated.medium)

    def segments(self, segments: Iterable[Segment]) -> Iterator[_Part]:
        for i, segment in enumerate(segments):
            if isinstance(segment, Text):
                # Each segment its own draw; 31 bits, which every engine's seed can hold.
                part_seed = derive_key(self.seed, i) >> 33 if self.bpe_dropout else None
                yield _Part(self.tokenizer.encode(segment.text, self.bpe_dropout, part_seed), segment.loss)
            else:
                yield from self.medium(segment, i)

    def medium(self, segment: Image | Video | Audio, number: int) -> Iterator[_Part]:
        """BOI I.. EOI SEP of a picture that is understood, BOI I.. EOI of one that is generated (report, Figure 2).

        A sound has BOA a.. EOA either way (Figure 3); the voice of a reference clip is a token without marks.
        """
        ids = self.tokenizer.special_ids
        begin, hold, end = (ids[mark] for mark in _MARKS[type(segment)])
        try:
            medium = self.media.encode(segment, number, self.seed)
        except MissingReader:
            raise
        except UserError as error:
            raise BadLine(f"{self.origin}: {error}") from None
        held = _Part([hold] * len(medium.layout), False, medium)
        if segment.role == "speaker":
            yield held
            return
        yield _Part([begin], medium.is_generated)
        yield held
        if isinstance(segment, Audio):
            yield _Part([end], False)
        else:
            yield _Part([end] if medium.is_generated else [end, ids["<sep>"]], True)

    def chat(self, messages: Sequence[Message]) -> Iterator[_Part]:
        for i, message in enumerate(messages):
            # The turn with its first text, then media and texts in order, then what closes the turn.
            texts = message.content
            leading = texts[0].text if texts and isinstance(texts[0], Text) else ""
            rest = texts[1:] if texts and isinstance(texts[0], Text) else texts
            if all(isinstance(segment, Text) for segment in rest):
                leading, rest = leading + "".join(segment.text for segment in rest), ()
            turn = {"role": message.role, "content": leading}
            turn |= {"reasoning_content": message.reasoning} if message.reasoning else {}
            parts = [_Part(ids, loss) for ids, loss in self.tokenizer.apply_chat_template([turn])]
            yield from parts[:-1] if i == 0 else parts[1:-1]  # `<s>` stands before the first turn alone
            if not rest:
                yield parts[-1]
                continue
            closing = self.tokenizer.apply_chat_template([{"role": message.role, "content": ""}])[-1][0]
            body, loss = parts[-1].ids, parts[-1].loss
            yield _Part(body[: len(body) - len(closing)], loss)
            plain = _Encoder(self.tokenizer, 0.0, derive_key(self.seed, i), self.media, self.origin)
            yield from plain.segments(rest)
            yield _Part(closing, loss)


def _places(parts: Sequence[_Part], origin: str) -> Places:
    positions, group_start, hidden_from, kinds, media = [], [], [], [], []
    first, position = 0, 0  # of the part: its place in the sample, its first rotary position
    for part in parts:
        n = len(part.ids)
        if part.medium is None:
            positions.append(np.repeat(position + np.arange(n, dtype=np.float32)[:, None], 3, axis=1))
            group_start.append(first + np.arange(n))
            hidden_from.append(np.full(n, TO_THE_END))
            kinds.append(np.full(n, TokenKind.TEXT))
            position += n
        else:
            layout = part.medium.layout
            positions.append(layout.positions + np.float32(position))
            group_start.append(layout.group_start + first)
            hidden_from.append(np.where(layout.hidden_from == TO_THE_END, TO_THE_END, layout.hidden_from + first))
            kinds.append(np.full(n, part.medium.kind))
            media.append(replace(part.medium.placed(first), origin=origin))
            position += layout.extent
        first += n
    arrays = (np.concatenate(values) for values in (positions, group_start, hidden_from))
    return Places(*arrays, np.concatenate(kinds).astype(np.int8), tuple(media))


def _loss_bytes(sample: Sample) -> int:
    texts = [segment.text for segment in sample.all_segments() if isinstance(segment, Text) and segment.loss]
    texts += [message.reasoning for message in sample.messages]
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
