"""`/v1/images/generations` and `/v1/audio/speech`: one medium behind a prompt."""

import dataclasses
import time

import numpy as np
from fastapi import APIRouter, Request, Response

from ernie5.data.sample import Segment, Text
from ernie5.inference.request import Finished, Sound
from ernie5.inference.request import Request as Asked
from ernie5.serving import asking, replies
from ernie5.serving.api_chat import Usage
from ernie5.serving.errors import ApiError
from ernie5.serving.forms import ImagesRequest, SpeechRequest
from ernie5.serving.http import Json, reply
from ernie5.serving.media import MediaFolder
from ernie5.serving.media_out import base64_of, drawing_bytes, joined, sound_bytes
from ernie5.serving.service import Service
from ernie5.serving.template import Turn, to_prompt


def media_routes(service: Service) -> APIRouter:
    routes, settings = APIRouter(), service.settings

    @routes.post("/v1/images/generations", response_model=replies.ImagesReply)
    async def images(form: ImagesRequest, request: Request) -> Response:
        """Pictures, or films with `num_frames`, behind a prompt."""
        asking.check_model(form.model, settings.served)

        async def build(folder: MediaFolder) -> list[Asked]:
            prompt = _as_chat([Text(form.prompt, loss=False)] if form.prompt else [])
            first = asking.images_request(form, prompt, settings.served)
            return [dataclasses.replace(first, seed=first.seed + i) for i in range(form.n or 1)]

        return await reply(request, draw(form, build))

    @routes.post(
        "/v1/audio/speech", response_class=Response, responses={200: {"content": {"audio/wav": {}, "audio/pcm": {}}}}
    )
    async def speech(form: SpeechRequest, request: Request) -> Response:
        """Speech behind a prompt, as a WAV file or its samples alone."""
        asking.check_model(form.model, settings.served)

        async def build(folder: MediaFolder) -> list[Asked]:
            voice = [await folder.voice(form.reference, "reference")] if form.reference else []
            prompt = _as_chat([*voice, Text(form.input, loss=False)])
            return [asking.speech_request(form, prompt, settings)]

        return await reply(request, speak(form, build))

    def _as_chat(segments: list[Segment]) -> tuple:
        return to_prompt([Turn("user", tuple(segments))], settings.served.chat_template)

    async def draw(form: ImagesRequest, build) -> Response:
        running = await service.begin("/v1/images/generations", build)
        try:
            usage, drawings = Usage(), {}
            async for index, what in running.events():
                if isinstance(what, Finished):
                    usage.add(0, what)
                elif isinstance(what, np.ndarray):
                    drawings.setdefault(index, what)
        finally:
            running.close()
        if len(drawings) < running.count:
            raise ApiError("the model drew nothing: ask again, or with another prompt", status=500)
        data = [{"b64_json": base64_of(drawing_bytes(drawings[i], form.fps)[0])} for i in sorted(drawings)]
        return Json({"created": int(time.time()), "data": data, "usage": _image_usage(usage)})

    async def speak(form: SpeechRequest, build) -> Response:
        running = await service.begin("/v1/audio/speech", build)
        try:
            sounds = [what async for _, what in running.events() if isinstance(what, Sound)]
        finally:
            running.close()
        if not sounds:
            raise ApiError("the model said nothing: ask again, or with another prompt", status=500)
        kind = form.response_format or "wav"
        sound = joined(sounds)
        return Response(
            sound_bytes(sound, kind),
            media_type=f"audio/{kind}",
            headers={"X-Sample-Rate": str(sound.sample_rate)},
        )

    return routes


def _image_usage(usage: Usage) -> dict[str, int]:
    """OpenAI names tokens of pictures by another name than those of words."""
    body = usage.body()
    return {
        "input_tokens": body["prompt_tokens"],
        "output_tokens": body["completion_tokens"],
        "total_tokens": body["total_tokens"],
    }
