"""Servers for tests; the extras `serve` and `servetest` are imported by what is skipped without them."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.audio_models import AUDIO
from tests.vision_models import text_tokenizer, vision_config

if TYPE_CHECKING:
    from ernie5.serving.settings import Served
    from tests.serving.servers import Running


@pytest.fixture(scope="session")
def tokenizer():
    return text_tokenizer()


@pytest.fixture
def served(tiny_model_config, tokenizer) -> "Served":
    from ernie5.serving.settings import Served

    config = dataclasses.replace(tiny_model_config, vision=vision_config(), audio=AUDIO)
    return Served(name="tiny", config=config, tokenizer=tokenizer, draws=True, speaks=True, clones=True)


@pytest.fixture
def serve(served) -> "Iterator[Callable[..., Running]]":
    """Starts a server; all of them end with the test."""
    from ernie5.serving.settings import Access, ServerSettings
    from tests.serving.fake_engine import FakeEngine
    from tests.serving.servers import LIMITS, started

    with ExitStack() as stack:

        def start(engine: Any = None, limits: Any = LIMITS, access: Any = None, **changes: Any) -> "Running":
            model = dataclasses.replace(served, **changes)
            settings = ServerSettings(served=model, limits=limits, access=access or Access())
            return stack.enter_context(started(settings, engine if engine is not None else FakeEngine()))

        yield start
