"""What a server counts, in Prometheus form."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics:
    """A registry of its own, so that two servers of a process do not meet."""

    def __init__(self):
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("ernie5_requests", "requests answered", ["endpoint", "status"], registry=registry)
        self.prompt_tokens = Counter("ernie5_prompt_tokens", "tokens of prompts", registry=registry)
        self.cached_tokens = Counter(
            "ernie5_cached_prompt_tokens", "tokens of prompts that had been read before", registry=registry
        )
        self.completion_tokens = Counter("ernie5_completion_tokens", "tokens of answers", registry=registry)
        self.finished = Counter("ernie5_answers", "answers by how they ended", ["reason"], registry=registry)
        self.running = Gauge("ernie5_requests_running", "requests in the engine", registry=registry)
        self.waiting = Gauge("ernie5_requests_waiting", "requests that wait for the engine", registry=registry)
        self.first_token = Histogram(
            "ernie5_time_to_first_token_seconds", "from the request's arrival", registry=registry, buckets=_SECONDS
        )
        self.per_token = Histogram(
            "ernie5_time_per_token_seconds", "mean of an answer, after its first", registry=registry,
            buckets=_TOKEN_SECONDS,
        )  # fmt: skip
        self.request_seconds = Histogram(
            "ernie5_request_seconds", "from arrival to end", registry=registry, buckets=(*_SECONDS, 120.0, 300.0)
        )
        self._engine: dict[str, Gauge] = {}

    def text(self, statistics: Any) -> bytes:
        """All of it, with each number of the engine's statistics as a gauge `ernie5_engine_...`."""
        for name, value in numbers(plain(statistics)).items():
            if name not in self._engine:
                self._engine[name] = Gauge(
                    f"ernie5_engine_{name}", "of the engine's statistics", registry=self.registry
                )
            self._engine[name].set(value)
        return generate_latest(self.registry)


def plain(value: Any) -> Any:
    """Statistics of any make as what JSON knows."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def numbers(statistics: Any) -> dict[str, float]:
    """The single numbers on its first level."""
    if not isinstance(statistics, Mapping):
        return {}
    return {name: float(value) for name, value in statistics.items() if isinstance(value, int | float)}
