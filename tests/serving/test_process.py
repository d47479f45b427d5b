"""The process of a server: how it begins, ends, dies and comes back."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="needs the extras serve and servetest")
import httpx

from ernie5.errors import UserError
from ernie5.serving.run import KEY_VARIABLE, bind, read_keys
from tests.runs import ROOT

START_SECONDS = 60.0


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def start(port, tmp_path):
    """Starts the program that serves the scripted engine and waits until it is ready."""
    processes = []

    def start(step_seconds: float) -> subprocess.Popen:
        command = [sys.executable, "-m", "tests.serving.fake_server", str(port), str(step_seconds)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        processes.append(process)
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == 200
                return process
            except httpx.TransportError:
                assert process.poll() is None and time.monotonic() < end, process.stderr.read()
                time.sleep(0.1)

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def body(text, **settings):
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **settings}


def test_sigterm_lets_the_running_answer_end_and_leaves_nothing(start, port, tmp_path):
    process, url = start(0.02), f"http://127.0.0.1:{port}"
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=body("count", stream=True, max_tokens=100), timeout=30
    ) as answer:
        lines = (line for line in answer.iter_lines() if line)
        next(lines)
        process.send_signal(signal.SIGTERM)
        while httpx.get(f"{url}/ready", timeout=5).status_code == 200:
            time.sleep(0.01)
        assert httpx.post(f"{url}/v1/chat/completions", json=body("a"), timeout=5).status_code == 503
        rest = list(lines)
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    assert process.wait(30) == 0
    assert "Traceback" not in process.stderr.read()
    assert list(tmp_path.glob("ernie5-serve-*")) == []


def test_second_signal_ends_at_once(start, port):
    process, begun = start(0.02), threading.Event()

    def ask() -> None:
        with httpx.stream(
            "POST", f"http://127.0.0.1:{port}/v1/chat/completions", json=body("count", stream=True), timeout=30
        ) as answer:
            try:
                for _ in answer.iter_lines():
                    begun.set()
            except httpx.TransportError:
                pass

    thread = threading.Thread(target=ask)
    thread.start()
    assert begun.wait(30)
    process.send_signal(signal.SIGINT)
    while httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == 200:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.wait(10)
    thread.join()


def test_killed_server_comes_back_at_once_on_its_port_and_tidies_up(start, port, tmp_path):
    process, url = start(0.02), f"http://127.0.0.1:{port}"
    with (
        pytest.raises(httpx.TransportError),
        httpx.stream("POST", f"{url}/v1/chat/completions", json=body("count", stream=True), timeout=30) as answer,
    ):
        for number, _ in enumerate(answer.iter_lines()):
            if number == 3:
                process.kill()
    process.wait(10)
    assert len(list(tmp_path.glob("ernie5-serve-*"))) == 1, "what a kill leaves"
    start(0.0)
    answered = httpx.post(f"{url}/v1/chat/completions", json=body("hello"), timeout=30).json()
    assert answered["choices"][0]["message"]["content"] == "you said: hello"
    (folder,) = tmp_path.glob("ernie5-serve-*")
    assert f"-{process.pid}-" not in folder.name


def test_server_whose_engine_is_lost_ends_with_a_fault(start, port):
    process = start(0.0)
    assert httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body("wreck")).status_code == 500
    assert process.wait(30) == 1
    assert process.stderr.read().splitlines()[-1].startswith("fault: the engine has failed")


def test_busy_port_is_refused_in_one_sentence(port):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        with pytest.raises(UserError, match=rf"--port {port} on 127.0.0.1: Address already in use: stop what holds it"):
            bind("127.0.0.1", port)
    bind("127.0.0.1", port).close()


def test_host_that_is_none_is_refused():
    with pytest.raises(UserError, match="--host nowhere.invalid"):
        bind("nowhere.invalid", 1)


def test_keys_come_from_a_private_file_and_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "keys"
    path.write_text("# ours\nfirst-secret\n\nsecond-secret \n")
    path.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        read_keys(str(path))
    path.chmod(0o600)
    assert read_keys(str(path)) == ("first-secret", "second-secret")
    monkeypatch.setenv(KEY_VARIABLE, "third-secret")
    assert read_keys(str(path)) == ("third-secret", "first-secret", "second-secret")
    assert read_keys(None) == ("third-secret",)
    path.write_text("# none\n")
    with pytest.raises(UserError, match="holds no key"):
        read_keys(str(path))
    path.write_text("short\n")
    with pytest.raises(UserError, match="shorter than 8"):
        read_keys(str(path))


def test_folders_of_dead_servers_alone_are_removed(tmp_path, monkeypatch):
    from ernie5.serving.media import _remove_abandoned

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in (f"ernie5-serve-{dead.pid}-a", f"ernie5-serve-{os.getpid()}-b", "ernie5-serve-x-c", "other"):
        (tmp_path / name).mkdir()
    _remove_abandoned()
    left = {Path(path).name for path in tmp_path.iterdir()}
    assert left == {f"ernie5-serve-{os.getpid()}-b", "ernie5-serve-x-c", "other"}
