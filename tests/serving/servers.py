"""A server in a thread of the test, over a scripted engine or a real one."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import openai

from ernie5.serving.app import create_app
from ernie5.serving.run import Server, bind
from ernie5.serving.service import Service
from ernie5.serving.settings import Limits, ServerSettings

START_SECONDS = 30.0
PATIENCE = 10.0  # seconds
LIMITS = Limits(body_bytes=1 << 20, prompt_tokens=500, completion_tokens=50, drain_seconds=5.0)


def eventually(condition: Callable[[], bool]) -> None:
    """Waits until the condition holds; fails if it never does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.01)


class Running(NamedTuple):
    """A server that runs, and what is behind it."""

    url: str
    engine: Any
    service: Service
    server: Server

    def client(self, key: str = "unused", **settings: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30, **settings)

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)


@contextmanager
def started(settings: ServerSettings, engine: Any) -> Iterator[Running]:
    """A server until the end of the block."""
    app = create_app(settings, engine)
    server, listener, ready = Server(app), bind("127.0.0.1", 0), threading.Event()

    async def main() -> None:
        task = asyncio.ensure_future(server.serve([listener]))
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        ready.set()
        await task

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert ready.wait(START_SECONDS)
        yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", engine, app.state.service, server)
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
        assert not thread.is_alive()
