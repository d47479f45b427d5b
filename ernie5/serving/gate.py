"""What a request meets before anything is read of it: keys, the size of its body, the number of those inside."""

import asyncio
import hashlib
import hmac

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ernie5.serving.asking import seconds_to_wait
from ernie5.serving.errors import ApiError
from ernie5.serving.http import Json
from ernie5.serving.service import Service

API = "/v1/"
# The page is of this server alone; what a model writes is text and pictures to it, never a program.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "media-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", _PAGE_POLICY.encode()),
)


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, service: Service):
        self._app, self._service = app, service
        self._keys = [_digest(key) for key in service.settings.access.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 499

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        is_asked = scope["path"].startswith(API)
        try:
            self._check_name(scope)
            await (self._admit(scope, receive, told) if is_asked else self._app(scope, receive, told))
        except ApiError as error:
            await _refuse(error, scope, told)
        finally:
            endpoint = _endpoint(scope)
            self._service.metrics.requests.labels(endpoint, str(status)).inc()

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._check_key(scope)
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self._check_room()
        _check_type(scope)
        self._service.inside += 1
        try:
            body = await self._body(scope, receive)
            await self._app(scope, _replay(body, receive), send)
        finally:
            self._service.inside -= 1

    def _check_name(self, scope: Scope) -> None:
        names = self._service.settings.access.host_names
        name = _header(scope, b"host").decode("latin-1").lower()
        name = name if name.endswith("]") else name.rpartition(":")[0] or name
        if names and name not in names:
            raise ApiError(f"this server is called {names[0]}: ask it by that name", status=421)

    def _check_key(self, scope: Scope) -> None:
        if not self._keys:
            return
        given = _header(scope, b"authorization")
        scheme, _, key = given.partition(b" ")
        digest = _digest(key.strip())
        # All are compared, each in constant time, so that time tells nothing of any.
        if not any([hmac.compare_digest(digest, known) for known in self._keys]) or scheme.lower() != b"bearer":
            raise ApiError(
                "the API key is missing or wrong: send the header Authorization: Bearer KEY",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _check_room(self) -> None:
        service, limits = self._service, self._service.settings.limits
        if service.engine.is_broken:
            raise ApiError("the engine has failed: the server has to be restarted", status=503)
        if service.is_draining:
            message = "the server is being stopped: ask again in a moment"
            raise ApiError(message, status=503, headers={"Retry-After": "5", "Connection": "close"})
        if service.inside >= limits.running + limits.waiting:
            wait = seconds_to_wait(limits.waiting, limits.running)
            message = f"{service.inside} requests are here already: ask again in {wait} s"
            raise ApiError(message, status=429, code="queue_full", headers={"Retry-After": str(wait)})

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        limits = self._service.settings.limits
        declared = _header(scope, b"content-length")
        if declared.isdigit() and int(declared) > limits.body_bytes:
            raise _too_large(limits.body_bytes)
        try:
            return await asyncio.wait_for(_read(receive, limits.body_bytes), limits.body_seconds)
        except asyncio.TimeoutError:
            message = f"the body did not arrive within {limits.body_seconds:g} s: send it at once"
            raise ApiError(message, status=408, headers={"Connection": "close"}) from None


async def _read(receive: Receive, limit: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ApiError("the client went while it sent its body")
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """What was read is read again; then what comes, which is that the client goes."""
    is_read = False

    async def replay() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _too_large(limit: int) -> ApiError:
    message = f"the body is larger than the limit of {limit:,} bytes: send less"
    return ApiError(message, status=413, headers={"Connection": "close"})


def _check_type(scope: Scope) -> None:
    """A page of another site cannot send this type without asking first."""
    kind = _header(scope, b"content-type").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise ApiError("the body is no application/json: send JSON, and the header that says so", status=415)


async def _refuse(error: ApiError, scope: Scope, send: Send) -> None:
    async def nothing() -> Message:
        return {"type": "http.disconnect"}

    await Json(error.body(), error.status, headers=error.headers)(scope, nothing, send)


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


def _digest(key: str | bytes) -> bytes:
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def _endpoint(scope: Scope) -> str:
    """The route's own path, so that strangers cannot make up labels."""
    route = scope.get("route")
    return getattr(route, "path", None) or "other"
