"""`/v1/chat/completions` and `/v1/completions`."""

import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from ernie5.data.sample import Text
from ernie5.inference.request import Finished, Sound
from ernie5.inference.request import Request as Asked
from ernie5.serving import asking, replies
from ernie5.serving.forms import ChatRequest, CompletionRequest, Sampling, Speaking
from ernie5.serving.http import EventStream, Json, reply
from ernie5.serving.media import MediaFolder
from ernie5.serving.media_out import base64_of, drawing_part, joined, printable, sound_bytes
from ernie5.serving.service import Running, Service
from ernie5.serving.template import to_prompt

AUDIO_LIFE = 3600  # seconds; an answer's sound is not kept here, but OpenAI's form names a time
Delta = Callable[[Any], dict[str, Any]]  # of what the engine tells


class Usage:
    """Adds up the tokens of answers; a prompt that several answers share counts once."""

    def __init__(self):
        self._prompts: dict[int, tuple[int, int]] = {}
        self._completion = 0

    def add(self, prompt: int, finished: Finished) -> None:
        usage = finished.usage
        self._prompts.setdefault(prompt, (usage.prompt_tokens, usage.cached_tokens))
        self._completion += usage.completion_tokens

    def body(self) -> dict[str, Any]:
        prompt, cached = (sum(counts) for counts in zip((0, 0), *self._prompts.values(), strict=True))
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._completion,
            "total_tokens": prompt + self._completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


def chat_routes(service: Service) -> APIRouter:
    routes, settings = APIRouter(), service.settings

    @routes.post("/v1/chat/completions", response_model=replies.ChatReply)
    async def chat_completions(form: ChatRequest, request: Request) -> Response:
        """An answer to a chat, in words, pictures, films and sounds; `stream` for server-sent events."""
        asking.check_model(form.model, settings.served)

        async def build(folder: MediaFolder) -> list[Asked]:
            prompt = to_prompt(await folder.turns(form.messages), settings.served.chat_template)
            return _with_seeds(asking.chat_request(form, prompt, settings), form.n or 1)

        return await reply(request, _answer(service, form, build, _Chat(service, form)))

    @routes.post("/v1/completions", response_model=replies.CompletionReply)
    async def completions(form: CompletionRequest, request: Request) -> Response:
        """Text behind text, as the beginning of a document; several prompts give `n` choices each."""
        asking.check_model(form.model, settings.served)
        prompts = [form.prompt] if isinstance(form.prompt, str) else form.prompt

        async def build(folder: MediaFolder) -> list[Asked]:
            asked = []
            for text in prompts:
                prompt = [Text(text, loss=False)] if text else []
                asked += _with_seeds(asking.completion_request(form, prompt, settings), form.n or 1)
            return asked

        return await reply(request, _answer(service, form, build, _Completion(service, form)))

    return routes


def _with_seeds(request: Asked, count: int) -> list[Asked]:
    """The first is what one answer alone would be."""
    return [dataclasses.replace(request, seed=request.seed + i) for i in range(count)]


async def _answer(service: Service, form: Sampling, build: Any, writer: "_Writer") -> Response:
    running = await service.begin(writer.path, build)
    if form.stream:
        return EventStream(running, writer.stream(running))
    try:
        return Json(await writer.collect(running))
    finally:
        running.close()


class _Writer:
    """Events of the engine in the form of one endpoint."""

    path: str
    kind: str
    chunk_kind: str
    prefix: str

    def __init__(self, service: Service, form: Sampling):
        self.form = form
        self.head = {
            "id": f"{self.prefix}{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": service.settings.served.name,
            "system_fingerprint": None,
        }

    async def stream(self, running: Running) -> AsyncIterator[dict[str, Any]]:
        usage = Usage()
        has_usage = bool(self.form.stream_options and self.form.stream_options.include_usage)
        common = {**self.head, "object": self.chunk_kind} | ({"usage": None} if has_usage else {})
        for choice in self.opening(running.count):
            yield common | {"choices": [choice]}
        async for index, what in running.events():
            if isinstance(what, Finished):
                usage.add(index // (self.form.n or 1), what)
                yield common | {"choices": [self.chunk(index, None, what.reason)]}
            elif not isinstance(what, str) or what:
                yield common | {"choices": [self.chunk(index, what, None)]}
        if has_usage:
            yield common | {"choices": [], "usage": usage.body()}

    async def collect(self, running: Running) -> dict[str, Any]:
        usage, told = Usage(), [[] for _ in range(running.count)]
        reasons = [""] * running.count
        async for index, what in running.events():
            if isinstance(what, Finished):
                usage.add(index // (self.form.n or 1), what)
                reasons[index] = what.reason
            else:
                told[index].append(what)
        choices = [self.choice(i, parts, reasons[i]) for i, parts in enumerate(told)]
        return {**self.head, "object": self.kind, "choices": choices, "usage": usage.body()}

    def opening(self, count: int) -> list[dict[str, Any]]:
        return []

    def chunk(self, index: int, what: Any, reason: str | None) -> dict[str, Any]:
        raise NotImplementedError

    def choice(self, index: int, parts: list[Any], reason: str) -> dict[str, Any]:
        raise NotImplementedError


class _Chat(_Writer):
    path, prefix = "/v1/chat/completions", "chatcmpl-"
    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def __init__(self, service: Service, form: ChatRequest):
        super().__init__(service, form)
        self._sound_form = (form.audio or Speaking()).format
        self._fps = form.image.fps if form.image else 4.0

    def opening(self, count: int) -> list[dict[str, Any]]:
        return [self._delta(index, {"role": "assistant", "content": ""}, None) for index in range(count)]

    def chunk(self, index: int, what: Any, reason: str | None) -> dict[str, Any]:
        if what is None:
            return self._delta(index, {}, reason)
        if isinstance(what, str):
            return self._delta(index, {"content": printable(what)}, reason)
        if isinstance(what, Sound):
            return self._delta(index, {"audio": self._spoken(index, [what])}, reason)
        return self._delta(index, {"images": [drawing_part(what, self._fps)]}, reason)

    def choice(self, index: int, parts: list[Any], reason: str) -> dict[str, Any]:
        sounds = [part for part in parts if isinstance(part, Sound)]
        drawings = [part for part in parts if isinstance(part, np.ndarray)]
        message: dict[str, Any] = {
            "role": "assistant",
            "content": printable("".join(part for part in parts if isinstance(part, str))),
            "refusal": None,
        }
        if sounds:
            message["audio"] = self._spoken(index, sounds)
        if drawings:
            message["images"] = [drawing_part(drawing, self._fps) for drawing in drawings]
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}

    def _spoken(self, index: int, sounds: list[Sound]) -> dict[str, Any]:
        return {
            "id": f"audio_{self.head['id'].removeprefix(self.prefix)}_{index}",
            "data": base64_of(sound_bytes(joined(sounds), self._sound_form)),
            "transcript": "",
            "expires_at": self.head["created"] + AUDIO_LIFE,
        }

    @staticmethod
    def _delta(index: int, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


class _Completion(_Writer):
    path, prefix = "/v1/completions", "cmpl-"
    kind = chunk_kind = "text_completion"

    def chunk(self, index: int, what: Any, reason: str | None) -> dict[str, Any]:
        text = printable(what) if isinstance(what, str) else ""
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}

    def choice(self, index: int, parts: list[Any], reason: str) -> dict[str, Any]:
        return self.chunk(index, "".join(part for part in parts if isinstance(part, str)), reason)
