"""What goes to a worker and what comes back: media that need a tokenizer, and their codes. No tensor travels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle

from ernie5.modality.audio_codes import AudioBatch, AudioCoder
from ernie5.modality.batch import Coders
from ernie5.modality.unified import SoundMedium, UnifiedSequence, VisualMedium
from ernie5.modality.vision_codes import Generated, VisionBatch, VisionCoder


class EncodeRequest(NamedTuple):
    """The media of a micro-batch that need a tokenizer. All that is random in the answer is seeded by the media."""

    drawn: tuple[VisualMedium, ...]  # pictures and films that are generated
    heard: tuple[SoundMedium, ...]
    seq_len: int
    vision_bits: int  # of the vision tokenizer; 0: the model has none
    scale_weight_power: float = 0.5

    @property
    def media(self) -> tuple[VisualMedium | SoundMedium, ...]:
        return (*self.drawn, *self.heard)

    @property
    def num_bytes(self) -> int:
        """Of pixels and samples."""
        return sum(medium.pixels.nbytes for medium in self.drawn) + sum(medium.samples.nbytes for medium in self.heard)

    def alone(self, medium: VisualMedium | SoundMedium) -> "EncodeRequest":
        """One of its media as a request of its own."""
        is_drawn = isinstance(medium, VisualMedium)
        return self._replace(drawn=(medium,) if is_drawn else (), heard=() if is_drawn else (medium,))


class EncodedMedia(NamedTuple):
    """The answer; None where the request has nothing of the kind."""

    drawn: Generated | None
    sounds: AudioBatch | None


class Sent(NamedTuple):
    """A tensor on its way."""

    array: np.ndarray


def make_request(rows: UnifiedSequence, vision_bits: int = 0, scale_weight_power: float = 0.5) -> EncodeRequest | None:
    """For stacked rows [batch, seq]; None if nothing in them needs a tokenizer. The numbers choose a worker's coder.

    Pixels that are only looked at are left out: the backbone's own encoder takes them as they are.
    """
    drawn = tuple(m for m in rows.media if isinstance(m, VisualMedium) and m.is_generated)
    heard = tuple(m for m in rows.media if isinstance(m, SoundMedium))
    if not drawn and not heard:
        return None
    return EncodeRequest(drawn, heard, rows.input_ids.shape[1], vision_bits, scale_weight_power)


def encode_media(request: EncodeRequest, coders: Coders) -> EncodedMedia:
    """The answer."""
    return EncodedMedia(
        coders.vision.encode(request.drawn, request.seq_len).generated if request.drawn else None,
        coders.audio.encode(request.heard, request.seq_len) if request.heard else None,
    )


def answering_coders(encoded: EncodedMedia | None) -> Coders:
    """What `make_batch` takes for the rows of a request: coders that give the answer to it."""
    encoded = encoded or EncodedMedia(None, None)
    return Coders(_AnsweringVision(encoded.drawn), _AnsweringAudio(encoded.sounds))


class _AnsweringVision(VisionCoder):
    """Gives codes that are there; media that are only understood need none."""

    def __init__(self, drawn: Generated | None):
        super().__init__(None)
        self.drawn = drawn

    def encode(self, media: Sequence[VisualMedium], seq_len: int) -> VisionBatch:
        understood = super().encode([medium for medium in media if not medium.is_generated], seq_len)
        return understood._replace(generated=self.drawn)


class _AnsweringAudio(AudioCoder):
    """Gives codes that are there."""

    def __init__(self, sounds: AudioBatch | None):
        self.sounds = sounds

    def encode(self, media: Sequence[SoundMedium], seq_len: int) -> AudioBatch:
        return self.sounds


def to_arrays(tree: Any) -> Any:
    """A tree of named tuples with its tensors as `Sent` arrays."""
    if isinstance(tree, paddle.Tensor):
        return Sent(tree.numpy())
    return type(tree)(*map(to_arrays, tree)) if isinstance(tree, tuple) else tree


def to_tensors(tree: Any) -> Any:
    """What `to_arrays` was given. Copies, because what comes from a worker lies in memory that is shared with it."""
    if isinstance(tree, Sent):
        return paddle.to_tensor(tree.array)
    if isinstance(tree, np.ndarray):
        return tree.copy()
    return type(tree)(*map(to_tensors, tree)) if isinstance(tree, tuple) else tree


def num_bytes(tree: Any) -> int:
    """Of all arrays of a tree of named tuples."""
    if isinstance(tree, np.ndarray):
        return tree.nbytes
    return sum(map(num_bytes, tree)) if isinstance(tree, tuple) else 0


def described(medium: VisualMedium | SoundMedium) -> str:
    """A medium as a message names it."""
    where = f"at token {medium.start} of row {medium.row}" + (f" ({medium.origin})" if medium.origin else "")
    if isinstance(medium, SoundMedium):
        return f"a sound of {len(medium.samples)} samples {where}"
    frames, height, width, _ = medium.pixels.shape
    kind = "a picture" if frames == 1 else f"a film of {frames} frames"
    return f"{kind} of {height} x {width} pixels {where}"
