"""tools/serve.py: what it refuses before it loads anything, and a whole life on a small model."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
import httpx

from ernie5.errors import UserError
from ernie5.model.folder import save_pretrained
from ernie5.serving.template import template_of
from tests.runs import ROOT
from tests.vision_models import text_tokenizer, vision_config, vision_model, vision_tokenizer

START_SECONDS = 90.0


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "tools" / "serve.py"), *map(str, arguments)]


def refused(*arguments: object, **environment: str) -> str:
    """The one line that it says."""
    settings = {name: value for name, value in os.environ.items() if name != "ERNIE5_API_KEY"} | environment
    result = subprocess.run(command(*arguments), capture_output=True, text=True, cwd=ROOT, env=settings)
    assert result.returncode == 2 and result.stdout == "", result.stderr
    (line,) = result.stderr.splitlines()
    return line


@pytest.fixture
def folder(tiny_model_config, tmp_path):
    text_tokenizer().save_pretrained(tmp_path / "text")
    vision_tokenizer().save_pretrained(tmp_path / "vision")
    model = vision_model(tiny_model_config, vision_config())
    return save_pretrained(model, tmp_path / "model", tmp_path / "text", tmp_path / "vision")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--max-pages", 0), "--max-pages must be 1 or more"),
        (("--max-seconds", "nan"), "--max-seconds must be a number above 0"),
        (("--port", 65536), "--port must be from 0"),
        (("--host", "0.0.0.0"), "no key is asked for: give --api-key-file FILE, or --allow-anyone"),
        (("--api-key-file", "no/such/file"), "no/such/file: No such file or directory"),
        (("--port", 0), "no/such/model/config.json: cannot be read"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, words):
    assert words in refused("no/such/model", *arguments)


def test_taken_port_is_told_before_the_model_is_looked_at():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert f"--port {port} on 127.0.0.1: Address already in use" in refused("no/such/model", "--port", port)


def test_missing_extra_is_named(tmp_path):
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(\"No module named 'uvicorn'\", name='uvicorn')\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    assert "pip install 'ernie5[serve]'" in refused("no/such/model", PYTHONPATH=path)


def test_template_is_chosen_by_hand_or_by_the_folder(tmp_path):
    assert template_of(tmp_path, None) == "plain" and template_of(tmp_path, "chat") == "chat"
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"chat_template": "chat"}))
    assert template_of(tmp_path, None) == "chat" and template_of(tmp_path, "plain") == "plain"
    path.write_text(json.dumps({"chat_template": "odd"}))
    with pytest.raises(UserError, match="write one of plain, chat"):
        template_of(tmp_path, None)


@pytest.mark.slow
def test_folder_is_served_until_sigterm(folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"ERNIE5_API_KEY": "a long secret"}
    options = ("--port", port, "--max-pages", 32, "--model-name", "mine", "--chat-template", "chat", "--num-layers", 2)
    process = subprocess.Popen(command(folder, *options), stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    try:
        while True:
            try:
                assert httpx.get(f"{url}/ready").status_code == 200
                break
            except httpx.TransportError:
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.1)
        body = {"model": "mine", "messages": [{"role": "user", "content": "What is it?"}], "max_tokens": 4}
        assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 401
        key = {"Authorization": "Bearer a long secret"}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=key, timeout=60)
        assert answer.status_code == 200 and answer.json()["model"] == "mine"
        (card,) = httpx.get(f"{url}/v1/models", headers=key).json()["data"]
        assert card["chat_template"] == "chat" and card["output_modalities"] == ["text", "image", "video"]
        assert "ernie5_engine_max_pages 32.0" in httpx.get(f"{url}/metrics").text
        use = httpx.get(f"{url}/v1/expert_use", headers=key).json()["expert_use"]
        assert len(use) == 2, "the layers of the member alone"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert f"serving mine at {url}/ (a key is asked for)" in said and "Traceback" not in said
