"""What a sample is: typed segments of text and media in order, or the messages of a chat."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

MediaRole = Literal["understand", "generate"]  # generate: the medium is input and target
SoundRole = Literal["understand", "generate", "speaker"]  # speaker: a reference clip, the voice of which is taken
ChatRole = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text; `loss` says whether its tokens are targets."""

    text: str
    loss: bool = True


@dataclass(frozen=True, slots=True)
class Image:
    """A picture in the file `source`."""

    source: str
    role: MediaRole


@dataclass(frozen=True, slots=True)
class Video:
    """A film in the file `source`, looked at `fps` times a second."""

    source: str
    fps: float
    role: MediaRole


@dataclass(frozen=True, slots=True)
class Audio:
    """A recording in the file `source`."""

    source: str
    role: SoundRole


Segment = Text | Image | Video | Audio


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: ChatRole
    content: tuple[Segment, ...]
    reasoning: str = ""  # what an assistant thought before it answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One document or, of a long plain text, a part of one. Holds `segments`, or `messages` if it is a chat."""

    segments: tuple[Segment, ...] = ()
    messages: tuple[Message, ...] = ()
    origin: str  # `file:line`, for messages to the user
    begins: bool = True  # the document's beginning is in it, so `<s>` stands before it
    # The document's end is in it, so `</s>` stands after it. A chat that does not end goes on with `<|assistant|>`.
    ends: bool = True

    def all_segments(self) -> Iterator[Segment]:
        """The segments in order, also those inside messages."""
        yield from self.segments
        for message in self.messages:
            yield from message.content
