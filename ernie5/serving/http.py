"""Answers over HTTP, as one body or as server-sent events, given up when the client is gone; errors, too."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from ernie5.serving.errors import ApiError, error_body
from ernie5.serving.service import Running

logger = logging.getLogger(__name__)

_LATE_SECONDS = 1.0  # that a client has to read what is left when the time of its request is over


class Json(Response):
    """JSON in ASCII: whatever a text holds, it can be sent."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class EventStream(Response):
    """Server-sent events until `[DONE]`; `running` is closed at the end, whoever ends it."""

    media_type = "text/event-stream"

    def __init__(self, running: Running, chunks: AsyncIterator[dict[str, Any]]):
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._running, self._chunks = running, chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_gone(receive, self._send_all(send), self._running.deadline + _LATE_SECONDS)
        finally:
            self._running.close()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for chunk in self._chunks:
                await _send_data(send, Json(chunk).body)
            await _send_data(send, b"[DONE]")
        except ApiError as error:  # the status is sent already
            await _send_data(send, Json(error.body()).body)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_data(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": b"data: %b\n\n" % data, "more_body": True})


async def until_gone(receive: Receive, work: Coroutine[Any, Any, Any], deadline: float | None = None) -> Any:
    """What the work returns; it is cancelled, and None returned, when the client goes first, or does not read in time.

    deadline: by the loop's clock.
    """
    left = None if deadline is None else deadline - asyncio.get_running_loop().time()
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        for future in (task, gone):
            future.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def reply(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The answer that the work makes; of a client that is gone, one that nobody sees."""
    response = await until_gone(request.receive, work)
    return Response(status_code=499) if response is None else response


def install_errors(app: FastAPI) -> None:
    """Whatever goes wrong is told in OpenAI's form, never with a traceback."""

    @app.exception_handler(ApiError)
    async def told(request: Request, error: ApiError) -> Response:
        return Json(error.body(), error.status, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        param = _place([part for part in first["loc"] if part != "body"])
        message = f"{param}: {first['msg']}" if param else f"the body is not what is asked for: {first['msg']}"
        return Json(error_body(message[:500], 400, param or None), 400)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        status = error.status_code
        found = {404: "there is nothing here", 405: "this method is not for this path"}
        told = f"{found[status]}: see /openapi.json" if status in found else str(error.detail)
        return Json(error_body(told, status), status, headers=dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return Json(error_body("the server failed at this request: its log says how", 500), 500)


def _place(parts: list[Any]) -> str:
    """`messages[0].content`. What a union tried, such as `str` or `list[...]`, is no field and left out."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif not any(mark in part for mark in "[(") and part not in ("str", "function-wrap"):
            text += f".{part[:100]}" if text else part[:100]
    return text
