"""What is asked of the generation engine, and what it tells while it answers."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from ernie5.config.schema import GenerationConfig, ResolutionConfig
from ernie5.data.sample import Message, Segment


class Canvas(NamedTuple):
    """The size of what is drawn. A film has `num_frames`; a picture is one frame."""

    resolution: ResolutionConfig
    num_frames: int


class Sound(NamedTuple):
    samples: np.ndarray  # float32 [samples], in [-1, 1]
    sample_rate: int  # Hz


@dataclass(frozen=True, kw_only=True)
class Penalties:
    """Against repetition: what the logits of words lose that stand in the prompt or in the answer."""

    repetition: float = 1.0  # above 1: positive logits are divided by it, negative ones multiplied (arXiv:1909.05858)
    presence: float = 0.0  # taken from the logit of each word that the answer has
    frequency: float = 0.0  # taken as often as the answer has the word


@dataclass(frozen=True)
class Choices:
    """The answer is one of these texts."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class JsonSchema:
    """The answer is a JSON text that the schema, a JSON text itself, allows; "{}" allows any."""

    schema: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt and how it is answered. The answer depends on nothing but this, up to rounding of equal logits."""

    # Text and media to understand, in order; or the turns of a chat, whose answer ends with `<|end|>` too.
    prompt: tuple[Segment, ...] | tuple[Message, ...]
    config: GenerationConfig = field(default_factory=GenerationConfig)  # its `prompts` are not read
    begin: Literal["text", "image", "video", "audio"] = "text"  # a medium: it alone is the answer
    canvas: Canvas | None = None  # None: nothing is drawn, and the marks of pictures are words that are not shown
    speaks: bool = True  # False: nor is anything spoken
    streams_sound: bool = False  # a sound is told while it is spoken, the 80 ms of each frame
    stop: tuple[str, ...] = ()  # texts that end the answer; they are not part of it
    penalties: Penalties = field(default_factory=Penalties)
    constraint: Choices | JsonSchema | None = None  # of text; nothing is drawn or spoken then
    seed: int = 0


class Usage(NamedTuple):
    prompt_tokens: int
    cached_tokens: int  # of the prompt, that had been read for an earlier request
    completion_tokens: int  # words, cells of pictures and frames of sounds


class Finished(NamedTuple):
    """The last event of a request."""

    reason: Literal["stop", "length", "cancelled", "failed"]
    usage: Usage
    message: str = ""  # why it failed
    is_refused: bool = False  # it failed because of what was asked: other requests, and smaller ones, are answered


class Event(NamedTuple):
    """Something that request `number` was answered."""

    number: int
    what: "str | np.ndarray | Sound | Finished"  # text, a drawing uint8 [frames, height, width, 3], a sound, the end


class Statistics(NamedTuple):
    """What an engine has done, and what it holds."""

    waiting: int
    running: int
    pages: int  # that requests hold
    max_pages: int
    known_pages: int  # that can be found again
    steps: int
    tokens_read: int
    prompt_tokens: int  # of all requests that have begun
    cached_tokens: int  # of these, taken over from earlier ones
    begun_anew: int  # times that a request lost its pages
    drafted: int  # guesses of the prediction block
    accepted: int  # of these, right ones
    expert_use: dict[int, np.ndarray]  # layer id -> int64 [experts]: tokens that each expert has been asked for
