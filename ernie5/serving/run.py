"""The process of a server: its socket, its keys, and its end: what runs is finished, nothing new is taken."""

import asyncio
import os
import signal
import socket
import stat
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from ernie5.errors import Fault, UserError

if TYPE_CHECKING:  # it brings Paddle, which tools/serve.py starts later
    from ernie5.serving.service import Service

KEY_VARIABLE = "ERNIE5_API_KEY"
_BACKLOG = 2048  # connections that wait to be taken
_KEEP_ALIVE = 30  # seconds that a connection may be silent between requests
_MIN_KEY = 8  # characters


def bind(host: str, port: int) -> socket.socket:
    """The socket, before anything slow is done. Raises UserError for one that is taken or not to be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or "no name of a host"
        raise UserError(f"--host {host}: {cause}: give an address of this machine, such as 127.0.0.1") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a killed server's connections may still linger
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        cause = os.strerror(error.errno)
        raise UserError(f"--port {port} on {host}: {cause}: stop what holds it, or give another") from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def read_keys(path: str | None) -> tuple[str, ...]:
    """Keys of a file, one a line, and of the environment; not of the command line, which all on the machine see.

    Raises UserError for a file that others can read, that cannot be read or holds no key, and for keys easily guessed.
    """
    keys = [os.environ[KEY_VARIABLE]] if os.environ.get(KEY_VARIABLE) else []
    if path is not None:
        if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
            raise UserError(f"{path}: others on this machine can read it: chmod 600 {path}")
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise UserError(f"{path}: holds no key: write one a line")
        keys += found
    if any(len(key) < _MIN_KEY or not key.isascii() or not key.isprintable() for key in keys):
        raise UserError(f"an API key is shorter than {_MIN_KEY} characters or not plain ASCII: make a longer one")
    return tuple(keys)


class Server(uvicorn.Server):
    """On SIGTERM or SIGINT it stays there, answers 503 and finishes what runs; on the second it ends at once."""

    def __init__(self, app: FastAPI):
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=2,
                backlog=_BACKLOG,
                server_header=False,
                proxy_headers=False,
                ws="none",
                http="h11",
                loop="asyncio",
            )
        )
        self._service: Service = app.state.service
        self._signals = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        self.should_exit |= self._service.engine.is_broken
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._loop is None or self._signals > 1:
            self.should_exit = self.force_exit = True
        else:
            self._loop.call_soon_threadsafe(self._begin_to_end)

    def _begin_to_end(self) -> None:
        self._draining = self._loop.create_task(self._end())

    async def _end(self) -> None:
        await self._service.drain()
        self.should_exit = True


def run(app: FastAPI, listener: socket.socket) -> None:
    """Serves until a signal. Raises Fault if the engine has failed for good."""
    server = Server(app)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    server.run([listener])
    if app.state.service.engine.is_broken:
        raise Fault("the engine has failed, its log says how: start the server again")
