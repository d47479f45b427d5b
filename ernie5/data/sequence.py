"""A sample becomes ids: the one place where that happens, for training, evaluation and prompts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from ernie5.data.films import MissingReader
from ernie5.data.manifest import BadLine
from ernie5.data.sample import Audio, Image, Message, Sample, Segment, Text, Video
from ernie5.data.shuffle import derive_key
from ernie5.data.visual import EncodedMedium, VisionSettings, encode_medium
from ernie5.errors import UserError
from ernie5.modality.unified import TokenKind, VisualMedium
from ernie5.modality.visual_layout import TO_THE_END


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
    media: tuple[VisualMedium, ...]


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
    medium: EncodedMedium | None = None


def encode_sample(
    sample: Sample,
    tokenizer: Tokenizer,
    bpe_dropout: float = 0.0,
    seed: int = 0,
    vision: VisionSettings | None = None,
) -> EncodedSample:
    """Sample -> ids. BPE-dropout (arXiv:1910.13267) is a function of `seed`; chats are encoded without it.

    `</s>` carries loss if what stands before it does. What is drawn at random for media (guidance's dropout of the
    condition, masked frames, flip rates) is a function of `seed` too. Raises BadLine for a medium that cannot be read,
    and UserError for media that the model has no tower for: `vision` None is a model without.
    """
    refuse_media_without_tower(sample, vision)
    encoder = _Encoder(tokenizer, bpe_dropout, seed, vision, sample.origin)
    parts = list(encoder.chat(sample.messages) if sample.messages else encoder.segments(sample.segments))
    first_generated = next((i for i, part in enumerate(parts) if part.medium and part.medium.scales), None)
    if first_generated is not None and encoder.drops_condition():
        begin = parts[first_generated - 1]._replace(loss=False)  # BOI
        parts = [begin, *parts[first_generated:]]
    if sample.begins and not (parts and parts[0].ids[:1] == [tokenizer.bos_id]):  # a chat template may bring its own
        parts.insert(0, _Part([tokenizer.bos_id], False))
    if sample.ends:
        parts.append(_Part([tokenizer.eos_id], parts[-1].loss if len(parts) > 1 else True))
    return EncodedSample(
        ids=np.array([token for part in parts for token in part.ids], dtype=np.int64),
        loss=np.repeat([part.loss for part in parts], [len(part.ids) for part in parts]).astype(bool),
        num_bytes=_loss_bytes(sample),
        origin=sample.origin,
        places=_places(parts) if any(part.medium for part in parts) else None,
    )


def refuse_media_without_tower(sample: Sample, vision: VisionSettings | None) -> None:
    """UserError for a medium that this model cannot take."""
    for segment in sample.all_segments():
        if isinstance(segment, Audio) or (isinstance(segment, Image | Video) and vision is None):
            tower = "audio" if isinstance(segment, Audio) else "vision"
            raise UserError(
                f"{sample.origin}: has the {type(segment).__name__.lower()} {segment.source}, but this model has no "
                f"{tower}: leave such samples out of the data"
            )


class _Encoder:
    """The parts of one sample, in order."""

    def __init__(self, tokenizer: Tokenizer, bpe_dropout: float, seed: int, vision: VisionSettings | None, origin: str):
        self.tokenizer, self.bpe_dropout, self.seed = tokenizer, bpe_dropout, seed
        self.vision, self.origin = vision, origin

    def drops_condition(self) -> bool:
        rng = np.random.default_rng(derive_key(self.seed, "condition"))
        return rng.random() < self.vision.data.condition_dropout

    def segments(self, segments: Iterable[Segment]) -> Iterator[_Part]:
        for i, segment in enumerate(segments):
            if isinstance(segment, Text):
                # Each segment its own draw; 31 bits, which every engine's seed can hold.
                part_seed = derive_key(self.seed, i) >> 33 if self.bpe_dropout else None
                yield _Part(self.tokenizer.encode(segment.text, self.bpe_dropout, part_seed), segment.loss)
            else:
                yield from self.medium(segment, i)

    def medium(self, segment: Image | Video, number: int) -> Iterator[_Part]:
        """BOI I.. EOI SEP of a picture that is understood, BOI I.. EOI of one that is generated (report, Figure 2)."""
        ids = self.tokenizer.special_ids
        begin, hold, end = (
            ("<boi>", "<image>", "<eoi>") if isinstance(segment, Image) else ("<bov>", "<video>", "<eov>")
        )
        try:
            medium = encode_medium(segment, self.vision, derive_key(self.seed, "medium", number))
        except MissingReader:
            raise
        except UserError as error:
            raise BadLine(f"{self.origin}: {error}") from None
        yield _Part([ids[begin]], segment.role == "generate")
        yield _Part([ids[hold]] * len(medium.layout), False, medium)
        yield _Part([ids[end]] if segment.role == "generate" else [ids[end], ids["<sep>"]], True)

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
            plain = _Encoder(self.tokenizer, 0.0, derive_key(self.seed, i), self.vision, self.origin)
            yield from plain.segments(rest)
            yield _Part(closing, loss)


def _places(parts: Sequence[_Part]) -> Places:
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
            is_generated = bool(part.medium.scales)
            kinds.append(np.full(n, TokenKind.VISION_GENERATION if is_generated else TokenKind.VISION_UNDERSTANDING))
            media.append(part.medium.placed(first))
            position += layout.extent
        first += n
    arrays = (np.concatenate(values) for values in (positions, group_start, hidden_from))
    return Places(*arrays, np.concatenate(kinds).astype(np.int8), tuple(media))


def _loss_bytes(sample: Sample) -> int:
    texts = [segment.text for segment in sample.all_segments() if isinstance(segment, Text) and segment.loss]
    texts += [message.reasoning for message in sample.messages]
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
