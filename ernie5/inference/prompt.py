"""Prompts of text and media: the same tokens as in training."""

import hashlib
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import paddle

from ernie5.data.media_settings import MediaSettings
from ernie5.data.packing import Part, build_row
from ernie5.data.sample import Audio, Message, Sample, Segment, Text
from ernie5.data.sequence import EncodedSample, encode_sample
from ernie5.errors import UserError
from ernie5.inference.coders import require_audio, require_speaker_encoder
from ernie5.inference.paged_sequence import PagedSequence, Places, records_of
from ernie5.modality.batch import NO_CODERS, Coders, make_batch
from ernie5.modality.token_layout import TO_THE_END
from ernie5.modality.unified import SoundMedium, TokenKind, VisualMedium, stack
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.tokenizers.text import TextTokenizer

_PAD_ID = 0  # of a row that is as long as its prompt


def encode_prompt(
    model: Ernie5ForCausalLM, tokenizer: TextTokenizer, prompt: Sequence[Segment] | Sequence[Message]
) -> EncodedSample:
    """The beginning of a document, as training encodes it but with nothing dropped, masked or flipped.

    Behind the messages of a chat the assistant's turn begins. Raises UserError for media that cannot be read, that the
    model does not take, or that are to be generated.
    """
    sample = Sample(
        segments=tuple(part for part in prompt if not isinstance(part, Message)),
        messages=tuple(part for part in prompt if isinstance(part, Message)),
        origin="prompt",
        ends=False,
    )
    for segment in sample.all_segments():
        if not isinstance(segment, Text) and segment.role == "generate":
            raise UserError(f"{segment.source}: media of a prompt are taken in: give it the role understand")
    return encode_sample(sample, tokenizer, media=MediaSettings.uncorrupted(model.config))


def check_coders(model: Ernie5ForCausalLM, prompt: Sequence[Segment] | Sequence[Message], coders: Coders) -> None:
    """UserError for sounds that `coders` cannot encode."""
    segments = [one for part in prompt for one in (part.content if isinstance(part, Message) else [part])]
    sounds = [segment for segment in segments if isinstance(segment, Audio)]
    if sounds:
        require_audio(coders, model)
    if any(sound.role == "speaker" for sound in sounds):
        require_speaker_encoder(coders)


class Prompt:
    """The tokens of a prompt, of at least one id, as `Read` takes them. Media are encoded when they are read."""

    def __init__(self, encoded: EncodedSample, coders: Coders = NO_CODERS):
        self._row = stack([build_row([Part(encoded, 0, len(encoded))], len(encoded), _PAD_ID)])
        self._coders = coders
        self._states: paddle.Tensor | None = None
        row = self._row
        until, seen_from = (row.mask_rows[0, :, i].astype(np.int64) for i in range(2))
        until[until == len(self)] = TO_THE_END
        self.places = Places(row.position_ids[0], seen_from, until)
        media = np.zeros(len(self), "S16")
        for medium in row.media:
            media[medium.start : medium.start + medium.length] = _digest(medium)
        self._records = records_of(row.input_ids[0], self.places, media)

    def __len__(self) -> int:
        return self._row.input_ids.shape[1]

    @property
    def ids(self) -> np.ndarray:
        """int64 [tokens]; a placeholder for a token of a medium."""
        return self._row.input_ids[0]

    def begin(self, sequence: PagedSequence) -> int:
        """Takes over what has been read of such a prompt before, and says how many tokens that is."""
        known = sequence.reuse(self._records)
        sequence.position = np.float32(self.places.positions[-1, 0] + 1)
        return known

    def embedded(self, model: Ernie5ForCausalLM, first: int, last: int) -> paddle.Tensor:
        """[last - first, hidden]."""
        if (self._row.token_kind[0, first:last] == TokenKind.TEXT).all():
            return model.text.embed(paddle.to_tensor(self._row.input_ids[0, first:last]))
        if self._states is None:
            self._states = model.embed(make_batch(self._row, self._coders))[0]
        return self._states[first:last]

    def records(self, places: Places, first: int, last: int) -> np.ndarray:
        """What the tokens are."""
        return self._records[first:last]


def _digest(medium: VisualMedium | SoundMedium) -> bytes:
    """Of all that its tokens depend on."""
    found = hashlib.blake2b(digest_size=16)
    for field in fields(medium):
        value = getattr(medium, field.name)
        if field.name not in ("start", "row", "origin"):
            found.update(
                value.tobytes() + repr(value.shape).encode() if isinstance(value, np.ndarray) else repr(value).encode()
            )
    return found.digest()
