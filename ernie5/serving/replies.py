"""What answers are made of, in OpenAI's form; for the OpenAPI description, which tests hold answers against."""

from typing import Any, Literal

from pydantic import BaseModel, Field

FinishReason = Literal["stop", "length"]


class CachedTokens(BaseModel):
    cached_tokens: int = Field(description="of the prompt, that had been read for an earlier request")


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens | None = None


class Url(BaseModel):
    url: str = Field(description="data:image/png;base64,... of a picture, data:image/webp;base64,... of a film")


class Drawn(BaseModel):
    type: Literal["image_url", "video_url"]
    image_url: Url | None = None
    video_url: Url | None = None


class Spoken(BaseModel):
    id: str
    data: str = Field(description="base64, in the format asked for")
    transcript: str = Field(description="empty: the model gives none")
    expires_at: int


class Reply(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    audio: Spoken | None = None
    images: list[Drawn] | None = Field(None, description="ernie5: what was drawn, in order")


class Choice(BaseModel):
    index: int
    message: Reply
    logprobs: None = None
    finish_reason: FinishReason


class ChatReply(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str | None = None


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: None = None
    finish_reason: FinishReason


class CompletionReply(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    system_fingerprint: str | None = None


class Picture(BaseModel):
    b64_json: str


class ImagesReply(BaseModel):
    created: int
    data: list[Picture]
    usage: dict[str, Any] | None = None


class ModelCard(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    input_modalities: list[str] = Field(description="ernie5: what a prompt may hold")
    output_modalities: list[str] = Field(description="ernie5: what an answer may hold")
    sizes: list[str] = Field(description="ernie5: pixels of what is drawn, width x height")
    takes_voices: bool = Field(description="ernie5: whether it speaks in the voice of a reference clip")
    chat_template: str = Field(description="ernie5: how messages become a prompt: plain or chat")
    max_prompt_tokens: int
    max_completion_tokens: int


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelCard]


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    error: ErrorBody


class Health(BaseModel):
    status: Literal["ok", "draining", "failed"]
