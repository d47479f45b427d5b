"""Answers to a few prompts, for programs that do not serve: each is a request to an engine that lives for the call."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from ernie5.config.schema import (
    AudioSamplingConfig,
    GenerationConfig,
    ResolutionConfig,
    VisualSamplingConfig,
)
from ernie5.data.sample import Segment, Text
from ernie5.errors import Fault
from ernie5.inference.coders import SIGHT, require_audio, require_vision
from ernie5.inference.draw import count_latent_frames
from ernie5.inference.engine import Engine
from ernie5.inference.evaluating import evaluating
from ernie5.inference.request import Canvas, Finished, Request, Sound
from ernie5.modality.batch import Coders
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet
from ernie5.tokenizers.text import TextTokenizer

Prompts = Sequence[Sequence[Segment]]


def complete(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    prompts: Sequence[str],
    config: GenerationConfig,
    seed: int = 0,
    subnet: Subnet | None = None,
) -> list[str]:
    """What the model writes behind each prompt, which it takes as the beginning of a document."""
    return answer(model, tokenizer, [[Text(prompt)] for prompt in prompts], config, seed, subnet)


def answer(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    prompts: Prompts,
    config: GenerationConfig,
    seed: int = 0,
    subnet: Subnet | None = None,
    coders: Coders = SIGHT,
) -> list[str]:
    """The text that the model writes behind each prompt; prompt i is answered with the seed `seed + i`.

    Raises UserError for media of a prompt that cannot be read; to hear, it needs `coders` with audio.
    """
    requests = _requests(prompts, config, seed, speaks=False)
    return ["".join(pieces) for pieces in _all(Engine(model, tokenizer, coders, subnet=subnet), requests)]


def draw(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    coders: Coders,
    prompts: Prompts,
    resolution: ResolutionConfig,
    num_frames: int,
    config: VisualSamplingConfig,
    seed: int = 0,
    subnet: Subnet | None = None,
) -> list[np.ndarray]:
    """What the model draws behind each prompt, uint8 [num_frames, height, width, 3]: a picture if it is one frame.

    `resolution` is one of the model's. Raises UserError for a model or coders that cannot draw, for a number of frames
    that the tokenizer does not make, and for media of a prompt that cannot be read.
    """
    count_latent_frames(num_frames, require_vision(coders, model))
    begin: Literal["image", "video"] = "image" if num_frames == 1 else "video"
    canvas = Canvas(resolution, num_frames)
    requests = _requests(prompts, GenerationConfig(vision=config), seed, begin=begin, canvas=canvas)
    return [pieces[0] for pieces in _all(Engine(model, tokenizer, coders, subnet=subnet), requests)]


def speak(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    coders: Coders,
    prompts: Prompts,
    config: AudioSamplingConfig,
    seed: int = 0,
    subnet: Subnet | None = None,
) -> list[np.ndarray]:
    """What the model says behind each prompt, float32 [samples] in [-1, 1] at the rate of the model.

    Raises UserError for a model or coders without audio, and for media of a prompt that cannot be read.
    """
    require_audio(coders, model)
    requests = _requests(prompts, GenerationConfig(audio=config), seed, begin="audio")
    return [pieces[0].samples for pieces in _all(Engine(model, tokenizer, coders, subnet=subnet), requests)]


def speak_stream(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    coders: Coders,
    prompt: Sequence[Segment],
    config: AudioSamplingConfig,
    seed: int = 0,
    subnet: Subnet | None = None,
) -> Iterator[np.ndarray]:
    """As `speak` of one prompt, while it is said: yields the 80 ms of each frame, which make up the same waveform."""
    require_audio(coders, model)
    request = Request(
        prompt=tuple(prompt), config=GenerationConfig(audio=config), begin="audio", streams_sound=True, seed=seed
    )
    for piece in _pieces(Engine(model, tokenizer, coders, subnet=subnet), request):
        yield piece.samples


def converse(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    prompt: Sequence[Segment],
    config: GenerationConfig,
    canvas: Canvas | None = None,
    seed: int = 0,
    subnet: Subnet | None = None,
    coders: Coders = SIGHT,
) -> Iterator[str | np.ndarray | Sound]:
    """Yields text, drawings uint8 [frames, height, width, 3] and sounds, until `</s>` or max_new_tokens words.

    Without a canvas nothing is drawn, without `coders` of audio nothing is spoken: the marks of media are then words
    that are not shown. Raises UserError for a canvas that `coders` cannot draw on, and for media of the prompt that
    cannot be read.
    """
    request = Request(prompt=tuple(prompt), config=config, canvas=canvas, seed=seed)
    yield from _pieces(Engine(model, tokenizer, coders, subnet=subnet), request)


def _requests(prompts: Prompts, config: GenerationConfig, seed: int, **others) -> list[Request]:
    return [
        Request(prompt=tuple(prompt), config=config, seed=seed + place, **others)
        for place, prompt in enumerate(prompts)
    ]


def _pieces(engine: Engine, request: Request) -> Iterator[str | np.ndarray | Sound]:
    """Of the answer, as they come."""
    with evaluating(engine.model):
        engine.submit(request)
    while not engine.is_idle:
        with evaluating(engine.model):
            events = engine.step()
        for _, what in events:
            if not isinstance(what, Finished):
                yield what
            elif what.reason == "failed":
                raise Fault(what.message)


def _all(engine: Engine, requests: Sequence[Request]) -> list[list]:
    """The pieces of each answer."""
    with evaluating(engine.model):
        found = {engine.submit(request): [] for request in requests}
        for number, what in engine.run():
            if not isinstance(what, Finished):
                found[number].append(what)
            elif what.reason == "failed":
                raise Fault(what.message)
    return list(found.values())
