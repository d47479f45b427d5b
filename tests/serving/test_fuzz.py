"""Requests made from the server's own description, right and wrong: none is answered 5xx, all as described."""

import json

import pytest

pytest.importorskip("openai", reason="needs the extras serve and servetest")
pytest.importorskip("schemathesis", reason="needs the extra servetest")
import httpx
import hypothesis
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serving.servers import eventually

EXAMPLES = 60  # a way to ask
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ALWAYS = {"model": "tiny", "max_tokens": 5, "max_completion_tokens": 5, "stream": False}


def as_known(body):
    """A body that reaches the engine: of the served model, short, without media, which chance does not make."""
    if not isinstance(body, dict):
        return body
    known = {name: ALWAYS.get(name, value) for name, value in body.items()}
    for message in known.get("messages") or []:
        if isinstance(message, dict) and isinstance(message.get("content"), list):
            message["content"] = "a"
    return known


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/images/generations", "/v1/audio/speech"]
)
@pytest.mark.slow
def test_no_request_is_answered_5xx_nor_otherwise_than_described(serve, path, mode):
    running = serve()
    schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    operation, reached = schema[path]["POST"], []

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        if mode is GenerationMode.POSITIVE:
            case.body = as_known(case.body)
        response = case.call(timeout=20)
        reached.append(response.status_code)
        case.validate_response(response, checks=CHECKS)

    ask()
    assert all(status < 500 for status in reached)
    if mode is GenerationMode.POSITIVE:
        assert 200 in reached, "no request reached the engine"
    eventually(lambda: running.service.inside == 0)


def test_description_names_our_own_fields_and_openais_form_of_errors(serve):
    running = serve()
    description = httpx.get(f"{running.url}/openapi.json").json()
    chat = description["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"guided_choice", "top_k", "image", "repetition_penalty"} <= set(chat)
    assert "ernie5" in json.dumps(chat["image"]) and "ernie5" in chat["top_k"]["description"]
    for path in description["paths"].values():
        for operation in path.values():
            assert "422" not in operation["responses"] and "400" in operation["responses"]
