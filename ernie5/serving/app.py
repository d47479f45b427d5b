"""The application: routes, the gate before them, the page, and its OpenAPI description."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from ernie5 import __version__
from ernie5.serving.api_about import about_routes
from ernie5.serving.api_chat import chat_routes
from ernie5.serving.api_media import media_routes
from ernie5.serving.engine_thread import Engine
from ernie5.serving.gate import Gate
from ernie5.serving.http import install_errors
from ernie5.serving.replies import ErrorReply
from ernie5.serving.service import Service
from ernie5.serving.settings import ServerSettings

STATIC = Path(__file__).parent / "static"
_ERRORS = {
    400: "what is asked cannot be answered",
    401: "the API key is missing or wrong",
    404: "no such model or path",
    408: "the body came too slowly",
    413: "the body or a medium is too large",
    415: "the body is no JSON",
    429: "too many requests",
    500: "the engine failed at this request",
    503: "the server is being stopped, or its engine has failed",
    504: "it took too long",
}


def create_app(settings: ServerSettings, engine: Engine) -> FastAPI:
    """The server of one engine, which belongs to it from now on. `app.state.service` is what its endpoints share."""
    service = Service(settings, engine)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="ernie5",
        version=__version__,
        description="OpenAI's interface to an ernie5 model. Fields marked ernie5 are our own.",
        lifespan=lifespan,
        redoc_url=None,
        docs_url=None,
        responses={status: {"model": ErrorReply, "description": text} for status, text in _ERRORS.items()},
    )
    app.state.service = service
    install_errors(app)
    for routes in (chat_routes(service), media_routes(service), about_routes(service)):
        app.include_router(routes)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_middleware(Gate, service=service)
    _leave_out_422(app)
    return app


def _leave_out_422(app: FastAPI) -> None:
    """A malformed body is answered 400, as OpenAI does; FastAPI would promise its own form of 422."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        description = describe()
        for path in description["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            description["components"]["schemas"].pop(name, None)
        return description

    app.openapi = openapi
