"""What requests are made of: OpenAI's fields, and our own, each with what it means."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Role = Literal["system", "developer", "user", "assistant", "tool"]
Modality = Literal["text", "image", "video", "audio"]
NonEmpty = Annotated[str, StringConstraints(min_length=1)]
FINITE = {"allow_inf_nan": False}


class Form(BaseModel):
    """Unknown fields are refused: a misspelt one would be an answer to another question."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ImageUrl(Form):
    url: NonEmpty = Field(description="data:image/png;base64,..., or a URL of a host that the server was told to allow")
    detail: Literal["auto", "low", "high"] | None = Field(None, description="taken, and without effect")


class VideoUrl(Form):
    url: NonEmpty = Field(
        description="data:video/mp4;base64,... or data:image/gif;base64,..., or a URL of an allowed host"
    )
    fps: float = Field(4.0, gt=0, le=60, description="frames a second at which it is looked at", **FINITE)


class InputAudio(Form):
    data: NonEmpty = Field(description="base64 of a WAV, FLAC, MP3 or OGG file")
    format: Literal["wav", "flac", "mp3", "ogg"] | None = Field(None, description="the content itself says it")
    role: Literal["understand", "speaker"] = Field(
        "understand", description="ernie5: `speaker` takes the voice of this clip for what is spoken"
    )


class TextPart(Form):
    type: Literal["text"]
    text: str


class ImagePart(Form):
    type: Literal["image_url"]
    image_url: ImageUrl


class VideoPart(Form):
    type: Literal["video_url"]
    video_url: VideoUrl


class AudioPart(Form):
    type: Literal["input_audio"]
    input_audio: InputAudio


Part = Annotated[TextPart | ImagePart | VideoPart | AudioPart, Field(discriminator="type")]


class ChatMessage(Form):
    role: Role
    content: str | list[Part] | None = None
    name: str | None = Field(None, description="taken, and without effect")
    reasoning_content: str | None = Field(None, description="ernie5: what the assistant thought before it answered")
    refusal: str | None = Field(None, description="taken, and without effect")
    audio: dict[str, Any] | None = Field(None, description="of an earlier answer; taken, and without effect")
    tool_call_id: str | None = Field(None, description="taken, and without effect")


class StreamOptions(Form):
    include_usage: bool = False
    include_obfuscation: bool | None = Field(None, description="taken, and without effect")


class Sampling(Form):
    """What all answers in words have in common."""

    model: NonEmpty
    max_tokens: int | None = Field(None, ge=1, description="words, cells of pictures and frames of sounds at most")
    temperature: float | None = Field(
        None, ge=0, le=2, description="0: always the likeliest word; default 0.8", **FINITE
    )
    top_p: float | None = Field(None, gt=0, le=1, description="default 0.95", **FINITE)
    top_k: int | None = Field(None, ge=0, le=1 << 30, description="ernie5: of so many likeliest words; 0: no limit")
    n: int | None = Field(None, ge=1, le=128, description="answers to each prompt")
    stop: NonEmpty | Annotated[list[NonEmpty], Field(max_length=16)] | None = None
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63, description="the same seed gives the same answer")
    presence_penalty: float | None = Field(None, ge=-2, le=2, **FINITE)
    frequency_penalty: float | None = Field(None, ge=-2, le=2, **FINITE)
    repetition_penalty: float | None = Field(
        None, ge=0.1, le=10, description="ernie5: above 1, words of prompt and answer come back less often", **FINITE
    )
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    guided_choice: Annotated[list[NonEmpty], Field(min_length=1, max_length=1024)] | None = Field(
        None, description="ernie5: the answer is one of these texts"
    )
    user: str | None = Field(None, description="taken, and without effect")


class SchemaOfFormat(Form):
    name: NonEmpty
    description: str | None = None
    json_schema: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class TextFormat(Form):
    type: Literal["text"]


class JsonFormat(Form):
    type: Literal["json_object"]


class SchemaFormat(Form):
    type: Literal["json_schema"]
    json_schema: SchemaOfFormat


ResponseFormat = Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")]


class BitSampling(Form):
    guidance: float | None = Field(
        None, ge=0, le=100, description="ernie5: how much the prompt counts; default 2", **FINITE
    )
    temperature: float | None = Field(None, ge=0, le=10, description="ernie5: of bits; default 1", **FINITE)
    top_p: float | None = Field(None, gt=0, le=1, description="ernie5: of bits; default 1", **FINITE)
    size: str | None = Field(
        None, pattern=r"^([1-9]\d{0,4}x[1-9]\d{0,4}|auto)$", description="one of the model's, width x height"
    )
    num_frames: int | None = Field(None, ge=2, le=1024, description="ernie5: of a film")
    fps: float = Field(4.0, ge=0.1, le=50, description="ernie5: frames a second at which a film is shown", **FINITE)


class CodeSampling(Form):
    guidance: float | None = Field(
        None, ge=0, le=100, description="ernie5: how much the prompt counts; default 1", **FINITE
    )
    temperature: float | None = Field(None, ge=0, le=10, description="ernie5: of codes; default 0.5", **FINITE)
    top_p: float | None = Field(None, gt=0, le=1, description="ernie5: of codes; default 0.8", **FINITE)
    top_k: int | None = Field(None, ge=0, le=1 << 30, description="ernie5: of codes; 0: no limit")
    max_seconds: float | None = Field(None, gt=0, le=600, description="ernie5: of a sound; default 10", **FINITE)
    voice: str | dict[str, Any] | None = Field(
        None, description="taken, and without effect: voices come from reference clips"
    )


class Drawing(BitSampling):
    """ernie5: how pictures and films are drawn; a film has 5 frames, or as many as the model makes at least."""


class Speaking(CodeSampling):
    """How speech is made and given back."""

    format: Literal["wav", "pcm16"] = Field("wav", description="pcm16: little-endian samples without a header")


class ChatRequest(Sampling):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1024)]
    max_completion_tokens: int | None = Field(None, ge=1, description="takes the place of max_tokens")
    modalities: Annotated[list[Modality], Field(min_length=1, max_length=4)] | None = Field(
        None,
        description="what the answer may hold; default text alone. A medium alone, without text: it is the answer",
    )
    audio: Speaking | None = None
    image: Drawing | None = Field(None, description="ernie5: how pictures and films are drawn")
    response_format: ResponseFormat | None = None
    logprobs: Literal[False] | None = None
    store: bool | None = Field(None, description="taken, and without effect")
    metadata: dict[str, str] | None = Field(None, description="taken, and without effect")
    service_tier: str | None = Field(None, description="taken, and without effect")


class CompletionRequest(Sampling):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=128)]
    echo: Literal[False] | None = None
    logprobs: None = None


class ImagesRequest(BitSampling):
    """With `num_frames` a film, as animated WebP."""

    model: NonEmpty
    prompt: str
    n: int | None = Field(None, ge=1, le=128)
    response_format: Literal["b64_json"] | None = None
    output_format: Literal["png"] | None = None
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63, description="ernie5: the same seed, the same picture")
    user: str | None = Field(None, description="taken, and without effect")


class SpeechRequest(CodeSampling):
    model: NonEmpty
    input: NonEmpty = Field(description="the prompt, as the model was trained to take it, such as `Say seven.`")
    reference: NonEmpty | None = Field(None, description="ernie5: base64 of a sound file whose voice is taken")
    response_format: Literal["wav", "pcm"] | None = Field(None, description="default wav")
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63, description="ernie5: the same seed, the same sound")
