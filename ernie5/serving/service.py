"""A request's way through the server: a place, its media, the engine, its events; and everything is given back."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from ernie5.errors import UserError
from ernie5.inference.prompt import encode_prompt
from ernie5.inference.request import Finished, Request
from ernie5.serving.engine_thread import Answers, Engine, EngineThread
from ernie5.serving.errors import ApiError
from ernie5.serving.media import MediaFolder, MediaRoom
from ernie5.serving.metrics import Metrics
from ernie5.serving.settings import ServerSettings

_OWN_FILE = re.compile(r"\S*ernie5-serve-\S*?\.bin")
Build = Callable[[MediaFolder], Awaitable[Sequence[Request]]]


class Service:
    """What all endpoints share. Used on the event loop that `start` was called on."""

    def __init__(self, settings: ServerSettings, engine: Engine):
        self.settings = settings
        self.engine = EngineThread(engine)
        self.metrics = Metrics()
        self.is_draining = False
        self.inside = 0  # requests between their first byte and the last of their answer
        self.places = asyncio.Semaphore(settings.limits.running)
        self.media: MediaRoom | None = None

    async def start(self) -> None:
        self.media = MediaRoom(self.settings)
        if self.settings.served.config.vision is not None or self.settings.served.speaks:
            await self.media.warm_up()
        self.engine.start()

    async def stop(self) -> None:
        await self.engine.stop()
        await self.media.close()

    async def drain(self) -> bool:
        """Takes nothing new and waits for what runs. False if the time was not enough."""
        self.is_draining = True
        end = time.monotonic() + self.settings.limits.drain_seconds
        while self.inside and time.monotonic() < end:
            await asyncio.sleep(0.05)
        return not self.inside

    async def begin(self, endpoint: str, build: Build) -> "Running":
        """Asks the engine. `build` makes the requests, all of one prompt's length or nearly so.

        Raises ApiError for what cannot be asked. The caller closes what is returned.
        """
        running = Running(self, endpoint)
        try:
            await running.start(build)
        except BaseException:
            running.close()
            raise
        return running


class Running:
    """Requests in the engine that answer one request of HTTP."""

    def __init__(self, service: Service, endpoint: str):
        self._service, self._endpoint = service, endpoint
        self._arrived = time.monotonic()
        self.deadline = asyncio.get_running_loop().time() + service.settings.limits.seconds
        self._folder = service.media.folder()
        self._answers: Answers | None = None
        self._has_place = False
        self._is_closed = False
        self.count = 0

    async def start(self, build: Build) -> None:
        metrics = self._service.metrics
        with metrics.waiting.track_inprogress():
            await self._in_time(self._service.places.acquire())
        self._has_place = True
        metrics.running.inc()
        requests = await self._in_time(build(self._folder))
        limit = self._service.settings.limits.answers
        if len(requests) > limit:
            raise ApiError(f"n: {len(requests)} answers are asked for, and at most {limit} are given", param="n")
        try:
            for request in {id(request.prompt): request for request in requests}.values():
                await self._in_time(asyncio.to_thread(self._check_length, request))
            self._answers = await self._in_time(self._service.engine.ask(requests))
        except UserError as error:
            raise ApiError(_OWN_FILE.sub("the medium", str(error))) from None
        self.count = len(requests)

    async def events(self) -> AsyncIterator[tuple[int, Any]]:
        """(place of the request, what it was answered). Raises ApiError where an answer fails or takes too long."""
        begun: dict[int, float] = {}
        try:
            async for index, what in self._answers.until(self.deadline):
                if isinstance(what, Finished):
                    self._count(what, begun.get(index))
                elif index not in begun:
                    begun[index] = time.monotonic()
                    self._service.metrics.first_token.observe(begun[index] - self._arrived)
                yield index, what
        except asyncio.TimeoutError:
            raise self._too_late() from None
        self._service.metrics.request_seconds.observe(time.monotonic() - self._arrived)

    def close(self) -> None:
        """Gives everything back: what still runs is cancelled, the media go, the place is free. Once or often."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._answers is not None:
            self._answers.cancel()
        self._folder.__exit__()
        if self._has_place:
            self._service.metrics.running.dec()
            self._service.places.release()

    async def _in_time(self, awaitable: Awaitable[Any]) -> Any:
        left = self.deadline - asyncio.get_running_loop().time()
        try:
            return await asyncio.wait_for(awaitable, max(left, 0.001))
        except asyncio.TimeoutError:
            raise self._too_late() from None

    def _too_late(self) -> ApiError:
        limit = self._service.settings.limits.seconds
        message = f"the answer took longer than the limit of {limit:g} s: ask for less, or later"
        return ApiError(message, status=504)

    def _check_length(self, request: Request) -> None:
        served, limit = self._service.settings.served, self._service.settings.limits.prompt_tokens
        # Of a model it asks the configuration alone, which is what `served` has.
        length = len(encode_prompt(served, served.tokenizer, request.prompt))
        if length > limit:
            raise UserError(f"the prompt has {length} tokens, more than the limit of {limit}: ask with less")

    def _count(self, finished: Finished, begun: float | None) -> None:
        metrics, usage = self._service.metrics, finished.usage
        metrics.finished.labels(finished.reason).inc()
        metrics.prompt_tokens.inc(usage.prompt_tokens)
        metrics.cached_tokens.inc(usage.cached_tokens)
        metrics.completion_tokens.inc(usage.completion_tokens)
        if begun is not None and usage.completion_tokens > 1:
            metrics.per_token.observe((time.monotonic() - begun) / (usage.completion_tokens - 1))
        if finished.reason == "failed":
            status = 400 if finished.is_refused else 500
            raise ApiError(f"the answer failed: {finished.message or 'no cause is given'}", status=status)
        if finished.reason == "cancelled":
            raise ApiError("the answer was given up by the server: ask again", status=503)
