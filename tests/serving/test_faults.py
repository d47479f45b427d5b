"""Clients that go, lie, flood and wait; engines that fail. What goes wrong stays with the request it belongs to."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

pytest.importorskip("openai", reason="needs the extras serve and servetest")
import openai

from ernie5.serving.settings import Access
from tests.serving.fake_engine import FakeEngine
from tests.serving.servers import LIMITS, eventually


def is_empty(running):
    return running.service.inside == 0 and running.engine.is_idle


def body(text, **settings):
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **settings}


def post(running, text, **settings):
    with running.http() as http:
        return http.post("/v1/chat/completions", json=body(text, **settings))


def raw(running, data):
    """What the server answers to these bytes."""
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(data)
        return connection.recv(1 << 16)


def test_client_that_goes_frees_its_request(serve):
    running = serve(FakeEngine(step_seconds=0.02))
    with running.http() as http, http.stream("POST", "/v1/chat/completions", json=body("count", stream=True)) as answer:
        next(answer.iter_lines())
        eventually(lambda: running.engine.requests)
    eventually(lambda: running.engine.cancelled == [1])
    eventually(lambda: is_empty(running))
    assert post(running, "a").status_code == 200


def test_client_that_goes_before_a_whole_answer_frees_its_request(serve):
    running = serve(FakeEngine(step_seconds=0.02))
    content = b'{"model": "tiny", "messages": [{"role": "user", "content": "count"}]}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(content) + content)
        eventually(lambda: running.engine.requests)
    eventually(lambda: running.engine.cancelled == [1])
    eventually(lambda: is_empty(running))


def test_queue_is_limited_and_says_when_to_come_again(serve):
    running = serve(FakeEngine(step_seconds=0.05), replace(LIMITS, running=1, waiting=1))
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(post, running, "count", max_tokens=20) for _ in range(2)]
        eventually(lambda: running.service.inside == 2)
        refused = post(running, "a")
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert len(running.engine.requests) == 1, "the second waits outside the engine"
        assert [answer.result().status_code for answer in asked] == [200, 200]
    assert post(running, "a").status_code == 200


def test_waiting_client_that_goes_leaves_the_queue(serve):
    running = serve(FakeEngine(step_seconds=0.05), replace(LIMITS, running=1, waiting=4))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, running, "count", max_tokens=20)
        eventually(lambda: running.engine.requests)
        with pytest.raises(openai.APITimeoutError):
            running.client().with_options(timeout=0.2).completions.create(model="tiny", prompt="b")
        eventually(lambda: running.service.inside == 1)
        assert first.result().status_code == 200
    eventually(lambda: is_empty(running))
    assert len(running.engine.requests) == 1


def test_answer_that_takes_too_long_is_given_up(serve):
    running = serve(FakeEngine(step_seconds=0.05), replace(LIMITS, seconds=0.3))
    assert post(running, "count").status_code == 504
    assert '"type":"timeout_error"' in post(running, "count", stream=True).text.split("\n\n")[-2]
    eventually(lambda: is_empty(running))
    assert running.engine.cancelled == [1, 2]


def test_client_that_does_not_read_loses_its_place(serve):
    running = serve(limits=replace(LIMITS, seconds=1.0, completion_tokens=1 << 30))
    content = b'{"model": "tiny", "stream": true, "max_tokens": 1000000, "prompt": "flood"}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    host, port = running.url.removeprefix("http://").split(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(content) + content)
        eventually(lambda: running.engine.requests)
        eventually(lambda: is_empty(running))


def test_request_that_fails_fails_alone(serve):
    running = serve(FakeEngine(step_seconds=0.02))
    with ThreadPoolExecutor(2) as pool:
        good, bad = pool.submit(post, running, "one two three"), pool.submit(post, running, "fail now please")
        assert bad.result().status_code == 500
        assert "planted" in bad.result().json()["error"]["message"]
        assert good.result().json()["choices"][0]["message"]["content"] == "you said: one two three"
    streamed = post(running, "fail now please", stream=True).text.split("\n\n")
    assert "planted" in streamed[-2] and "[DONE]" not in streamed[-2]


def test_answer_that_there_is_no_room_for_is_the_askers_fault(serve):
    refused = post(serve(), "fail of too much now")
    assert refused.status_code == 400 and "planted" in refused.json()["error"]["message"]
    assert refused.json()["error"]["type"] == "invalid_request_error"


def test_step_that_fails_is_told_and_the_next_request_is_answered(serve):
    running = serve()
    assert post(running, "crash").status_code == 500
    assert post(running, "a").status_code == 200
    eventually(lambda: is_empty(running))


def test_engine_that_cannot_recover_is_given_up_and_the_server_ends(serve):
    running = serve()
    assert post(running, "wreck").status_code == 500
    assert running.service.engine.is_broken
    eventually(lambda: running.server.should_exit)


def test_idle_engine_is_not_asked(serve, monkeypatch):
    looks = []
    monkeypatch.setattr(FakeEngine, "is_idle", property(lambda self: looks.append(1) or not self._running))
    running = serve()
    assert post(running, "a").status_code == 200
    eventually(lambda: running.service.inside == 0)
    time.sleep(0.1)
    before = len(looks)
    time.sleep(0.3)
    assert len(looks) == before


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe{",
        b"[" * 100_000,
        b'{"model": "tiny", "messages": []}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1e400}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "tiny", "\\ud800": 1, "messages": [{"role": "user", "content": "a"}]}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "a"}]}]}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": [{"type": "odd"}]}]}',
    ],
)
def test_malformed_bodies_are_bad_requests(serve, data):
    with serve().http() as http:
        answer = http.post("/v1/chat/completions", content=data, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"


def test_half_a_character_is_taken_and_shown_as_a_mark(serve):
    content = b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}'
    with serve().http() as http:
        answer = http.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert answer.json()["choices"][0]["message"]["content"] == "you said: \ufffd"


def test_body_that_is_too_large_is_refused_before_it_is_read(serve):
    running = serve()
    with running.http() as http:
        assert post(running, "a" * (2 << 20)).status_code == 413
        pieces = (b"a" * 65536 for _ in range(64))
        headers = {"content-type": "application/json"}
        assert http.post("/v1/chat/completions", content=pieces, headers=headers).status_code == 413


def test_body_that_does_not_come_is_not_waited_for(serve):
    running = serve(limits=replace(LIMITS, body_seconds=0.2))
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    assert raw(running, head).startswith(b"HTTP/1.1 408")
    eventually(lambda: running.service.inside == 0)


def test_what_is_no_json_or_no_http_is_refused(serve):
    running = serve()
    with running.http() as http:
        assert http.post("/v1/completions", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
        assert http.get("/nowhere").status_code == 404
        assert http.get("/v1/completions").status_code == 405
        assert http.get("/static/../app.py").status_code == 404
    assert raw(running, b"GET /static/../../app.py HTTP/1.1\r\nHost: a\r\n\r\n").startswith(b"HTTP/1.1 404")
    assert raw(running, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_key_is_asked_for(serve):
    running = serve(access=Access(api_keys=("first secret", "second secret")))
    for key in ("first secret", "second secret"):
        assert running.client(key).models.list().data
    for key in ("", "first", "first secret2"):
        with pytest.raises(openai.AuthenticationError):
            running.client(key or "x").completions.create(model="tiny", prompt="a")
    with running.http() as http:
        assert http.get("/v1/models").status_code == 401
        assert http.get("/health").status_code == http.get("/").status_code == 200
        assert http.get("/v1/models", headers={"Authorization": "Basic first secret"}).status_code == 401


def test_server_of_this_machine_goes_by_its_own_names(serve):
    running = serve(access=Access(host_names=("localhost", "127.0.0.1", "[::1]")))
    with running.http() as http:
        for name in ("localhost:8000", "localhost", "127.0.0.1:1", "[::1]:8000", "[::1]"):
            assert http.get("/v1/models", headers={"Host": name}).status_code == 200
        for name in ("evil.example", "evil.example:8000", "localhost.evil.example", "evil.example:localhost", ""):
            assert http.get("/", headers={"Host": name}).status_code == 421


def test_schema_of_any_size_is_not_read(serve):
    schema = {"type": "object", "description": "a" * 100_000}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    refused = post(serve(), "a", response_format=form)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "response_format"


def test_drain_finishes_what_runs_and_takes_nothing_new(serve):
    running = serve(FakeEngine(step_seconds=0.02))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(post, running, "count", max_tokens=20)
        eventually(lambda: running.engine.requests)
        running.server.handle_exit(15, None)
        eventually(lambda: running.service.is_draining)
        with running.http() as http:
            assert http.get("/ready").status_code == 503
            assert http.get("/health").status_code == 200
        refused = post(running, "a")
        assert refused.status_code == 503 and "retry-after" in refused.headers
        assert asked.result().json()["choices"][0]["finish_reason"] == "length"
    eventually(lambda: running.server.should_exit)


def test_metrics_count_what_was_done(serve):
    running = serve()
    post(running, "a")
    post(running, "fail now please")
    with running.http() as http:
        text = http.get("/metrics").text
        use = http.get("/v1/expert_use").json()
    for line in (
        'ernie5_requests_total{endpoint="/v1/chat/completions",status="200"} 1.0',
        'ernie5_requests_total{endpoint="/v1/chat/completions",status="500"} 1.0',
        'ernie5_answers_total{reason="stop"} 1.0',
        "ernie5_time_to_first_token_seconds_count 2.0",
        "ernie5_requests_running 0.0",
        "ernie5_engine_max_pages 100.0",
        "ernie5_engine_pages 0.0",
        "ernie5_engine_cached_tokens 3.0",
    ):
        assert line in text.splitlines(), line
    assert use["expert_use"] == {"0": [1, 3], "2": [2, 2]}


def test_many_clients_at_once_each_get_their_own_answer(serve):
    running = serve(FakeEngine(step_seconds=0.002))
    texts = [f"client {i}" for i in range(40)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda text: post(running, text, stream=len(text) % 2 == 0), texts))
    for text, answer in zip(texts, answers, strict=True):
        assert answer.status_code == 200
        assert text.split()[1] in answer.text
    eventually(lambda: is_empty(running))
    assert threading.active_count() < 100
