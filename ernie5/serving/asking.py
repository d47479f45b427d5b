"""Forms become requests to the engine; what a model or this server does not do is refused here."""

import json
import math
import secrets
from collections.abc import Sequence
from typing import Any

from ernie5.config.schema import AudioSamplingConfig, GenerationConfig, ResolutionConfig, VisualSamplingConfig
from ernie5.inference.request import Canvas, Choices, JsonSchema, Penalties, Request
from ernie5.serving.errors import ApiError
from ernie5.serving.forms import (
    BitSampling,
    ChatRequest,
    CodeSampling,
    CompletionRequest,
    Drawing,
    ImagesRequest,
    JsonFormat,
    Sampling,
    SchemaFormat,
    Speaking,
    SpeechRequest,
)
from ernie5.serving.settings import Served, ServerSettings

DEFAULT_COMPLETION_TOKENS = 128  # where a request names no number
_ANSWER = {"image": "picture", "video": "film", "audio": "sound"}


def check_model(name: str, served: Served) -> None:
    if name != served.name:
        message = f"the model {name[:100]!r} is not served here: ask for {served.name!r}"
        raise ApiError(message, status=404, param="model", code="model_not_found")


def chat_request(form: ChatRequest, prompt: Sequence[Any], settings: ServerSettings) -> Request:
    """One answer's request; those of `n` answers differ in their seeds."""
    served = settings.served
    modalities = set(form.modalities or ["text"])
    begin = _begin(modalities)
    if "audio" in modalities:
        require_speech(served, "modalities")
    constraint = _constraint(form, settings.limits.schema_bytes)
    if constraint is not None and modalities != {"text"}:
        raise ApiError("modalities: a constrained answer is text alone: leave the others out", param="modalities")
    drawing, speaking = form.image or Drawing(), form.audio or Speaking()
    return Request(
        prompt=tuple(prompt),
        config=_config(form, settings, form.max_completion_tokens, drawing, speaking),
        begin=begin,
        canvas=canvas(drawing, served, "image.size", begin) if modalities & {"image", "video"} else None,
        speaks="audio" in modalities,
        streams_sound=bool(form.stream) and speaking.format == "pcm16",
        constraint=constraint,
        **_common(form),
    )


def completion_request(form: CompletionRequest, prompt: Sequence[Any], settings: ServerSettings) -> Request:
    constraint = Choices(tuple(form.guided_choice)) if form.guided_choice else None
    return Request(
        prompt=tuple(prompt), config=_config(form, settings), speaks=False, constraint=constraint, **_common(form)
    )


def images_request(form: ImagesRequest, prompt: Sequence[Any], served: Served) -> Request:
    begin = "video" if form.num_frames else "image"
    config = GenerationConfig(vision=_vision(form))
    size = canvas(form, served, "size", begin)
    return Request(prompt=tuple(prompt), config=config, begin=begin, canvas=size, speaks=False, seed=seed_of(form.seed))


def speech_request(form: SpeechRequest, prompt: Sequence[Any], settings: ServerSettings) -> Request:
    require_speech(settings.served, "model")
    config = GenerationConfig(audio=_audio(form))
    return Request(prompt=tuple(prompt), config=config, begin="audio", seed=seed_of(form.seed))


def canvas(drawing: BitSampling, served: Served, param: str, begin: str) -> Canvas:
    """Raises ApiError for a model that does not draw, or not at that size or length."""
    vision = served.config.vision
    if vision is None or not served.draws:
        raise ApiError("this model does not draw: ask one with a vision tokenizer", param=param.partition(".")[0])
    stride = vision.encoder.temporal_stride
    num_frames = drawing.num_frames or 1 + -(-4 // stride) * stride
    if num_frames > vision.max_frames:
        message = f"num_frames is {num_frames}: this model makes films of at most {vision.max_frames}"
        raise ApiError(message, param="num_frames")
    return Canvas(_resolution(drawing.size, vision.resolutions, param), 1 if begin == "image" else num_frames)


def require_speech(served: Served, param: str) -> None:
    if served.config.audio is None or not served.speaks:
        raise ApiError("this model does not speak: ask one with an audio tokenizer", param=param)


def seed_of(seed: int | None) -> int:
    """Without one, another every time. The engine's are not negative."""
    return secrets.randbits(31) if seed is None else seed % (1 << 63)


def sizes_of(served: Served) -> list[str]:
    """What is drawn, width x height."""
    vision = served.config.vision
    return [f"{size.width}x{size.height}" for size in vision.resolutions] if vision is not None and served.draws else []


def _resolution(size: str | None, resolutions: Sequence[ResolutionConfig], param: str) -> ResolutionConfig:
    if size is None or size == "auto":
        return resolutions[0]
    for resolution in resolutions:
        if f"{resolution.width}x{resolution.height}" == size:
            return resolution
    sizes = ", ".join(f"{resolution.width}x{resolution.height}" for resolution in resolutions)
    raise ApiError(f"{param} is {size!r}: this model draws {sizes}", param=param)


def _begin(modalities: set[str]) -> str:
    """What the answer begins with: one medium that is asked for alone is the answer."""
    if "text" in modalities:
        return "text"
    if len(modalities) > 1:
        names = " and a ".join(_ANSWER[name] for name in sorted(modalities))
        raise ApiError(f"modalities: a {names} come with text in between: add text, or ask for one", param="modalities")
    return next(iter(modalities))


def _common(form: Sampling) -> dict[str, Any]:
    return {
        "stop": (form.stop,) if isinstance(form.stop, str) else tuple(form.stop or ()),
        "penalties": Penalties(
            repetition=form.repetition_penalty or 1.0,
            presence=form.presence_penalty or 0.0,
            frequency=form.frequency_penalty or 0.0,
        ),
        "seed": seed_of(form.seed),
    }


def _config(
    form: Sampling,
    settings: ServerSettings,
    max_completion_tokens: int | None = None,
    drawing: Drawing | None = None,
    speaking: Speaking | None = None,
) -> GenerationConfig:
    most = settings.limits.completion_tokens
    asked = max_completion_tokens or form.max_tokens or min(DEFAULT_COMPLETION_TOKENS, most)
    if asked > most:
        name = "max_completion_tokens" if max_completion_tokens else "max_tokens"
        raise ApiError(f"{name} is {asked}: this server gives at most {most}", param=name)
    return GenerationConfig(
        max_new_tokens=asked,
        vision=_vision(drawing or Drawing()),
        audio=_audio(speaking or Speaking()),
        **_given(form, GenerationConfig(), ("temperature", "top_p", "top_k")),
    )


def _vision(form: BitSampling) -> VisualSamplingConfig:
    guidance = {} if form.guidance is None else {"guidance_start": form.guidance, "guidance_end": form.guidance}
    return VisualSamplingConfig(**_given(form, VisualSamplingConfig(), ("temperature", "top_p")), **guidance)


def _audio(form: CodeSampling) -> AudioSamplingConfig:
    names = ("temperature", "top_p", "top_k", "guidance", "max_seconds")
    return AudioSamplingConfig(**_given(form, AudioSamplingConfig(), names))


def _given(form: Any, defaults: Any, names: Sequence[str]) -> dict[str, Any]:
    """Settings that the form gives, and the defaults of the others."""
    values = {name: getattr(form, name) for name in names}
    return {name: getattr(defaults, name) if value is None else value for name, value in values.items()}


def _constraint(form: ChatRequest, schema_bytes: int) -> Choices | JsonSchema | None:
    is_json = isinstance(form.response_format, JsonFormat | SchemaFormat)
    if form.guided_choice and is_json:
        raise ApiError("guided_choice and response_format both say what the answer is: give one", param="guided_choice")
    if form.guided_choice:
        return Choices(tuple(form.guided_choice))
    if not is_json:
        return None
    if isinstance(form.response_format, JsonFormat):
        return JsonSchema('{"type": "object"}')
    schema = json.dumps(form.response_format.json_schema.json_schema)
    if len(schema) > schema_bytes:
        message = f"response_format: the schema has {len(schema):,} bytes, more than the limit of {schema_bytes:,}"
        raise ApiError(f"{message}: make it smaller", param="response_format")
    return JsonSchema(schema)


def seconds_to_wait(waiting: int, running: int) -> int:
    """For `Retry-After`: a guess that grows with the queue."""
    return max(1, min(60, math.ceil(waiting / max(running, 1))))
