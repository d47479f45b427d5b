"""A sample becomes ids: the one place where that happens, for training and evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ernie5.data.sample import Sample, Text
from ernie5.data.shuffle import derive_key
from ernie5.errors import UserError

_TOWERS = {"Image": "vision", "Video": "vision", "Audio": "audio"}


class Tokenizer(Protocol):
    """What data needs of a tokenizer; `ernie5.tokenizers.text.TextTokenizer` is one."""

    bos_id: int
    eos_id: int
    pad_id: int

    def encode(self, text: str, bpe_dropout: float = 0.0, seed: int | None = None) -> list[int]: ...

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]]) -> list[tuple[list[int], bool]]: ...


@dataclass(frozen=True, slots=True, eq=False)
class EncodedSample:
    """The ids of a sample, `<s>` and `</s>` included where the document begins and ends in it."""

    ids: np.ndarray  # int64 [length]
    loss: np.ndarray  # bool [length]: whether predicting this token counts
    num_bytes: int  # of the text that carries loss, in UTF-8: the denominator of bits per byte
    origin: str

    def __len__(self) -> int:
        return len(self.ids)


def encode_sample(sample: Sample, tokenizer: Tokenizer, bpe_dropout: float = 0.0, seed: int = 0) -> EncodedSample:
    """Sample -> ids. BPE-dropout (arXiv:1910.13267) is a function of `seed`; chats are encoded without it.

    `</s>` carries loss if what stands before it does. Raises UserError for media, which need a model with their tower.
    """
    for segment in sample.all_segments():
        if not isinstance(segment, Text):
            kind = type(segment).__name__
            raise UserError(
                f"{sample.origin}: has the {kind.lower()} {segment.source}, but this model has no {_TOWERS[kind]}: "
                "leave such samples out of the data"
            )
    parts = _encode_chat(sample, tokenizer) if sample.messages else _encode_texts(sample, tokenizer, bpe_dropout, seed)
    if sample.begins and not (parts and parts[0][0][:1] == [tokenizer.bos_id]):  # a chat template may bring its own
        parts.insert(0, ([tokenizer.bos_id], False))
    if sample.ends:
        parts.append(([tokenizer.eos_id], parts[-1][1] if len(parts) > 1 else True))
    return EncodedSample(
        ids=np.array([token for ids, _ in parts for token in ids], dtype=np.int64),
        loss=np.repeat([loss for _, loss in parts], [len(ids) for ids, _ in parts]).astype(bool),
        num_bytes=_loss_bytes(sample),
        origin=sample.origin,
    )


def _encode_texts(sample: Sample, tokenizer: Tokenizer, bpe_dropout: float, seed: int) -> list[tuple[list[int], bool]]:
    parts = []
    for i, segment in enumerate(sample.segments):
        # Each segment its own draw; 31 bits, which every engine's seed can hold.
        part_seed = derive_key(seed, i) >> 33 if bpe_dropout else None
        parts.append((tokenizer.encode(segment.text, bpe_dropout, part_seed), segment.loss))
    return parts


def _encode_chat(sample: Sample, tokenizer: Tokenizer) -> list[tuple[list[int], bool]]:
    messages = []
    for message in sample.messages:
        turn = {"role": message.role, "content": "".join(segment.text for segment in message.content)}
        messages.append(turn | ({"reasoning_content": message.reasoning} if message.reasoning else {}))
    return tokenizer.apply_chat_template(messages)


def _loss_bytes(sample: Sample) -> int:
    texts = [segment.text for segment in sample.all_segments() if segment.loss]
    texts += [message.reasoning for message in sample.messages]
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
