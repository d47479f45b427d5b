"""Media of strangers: whatever is in them, the answer is a 4xx, and no file or address is read that was not allowed."""

import base64
import http.server
import struct
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="needs the extras serve and servetest")

from ernie5.serving import examination
from ernie5.serving.settings import Access
from tests.serving.servers import LIMITS
from tests.vision_models import noise_film, noise_picture


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, rows=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


HOSTILE = {
    "bomb": png(100_000, 100_000),
    "wide": png(1 << 20, 1),
    "empty_rows": png(64, 64),
    "no_pixels": png(0, 0),
    "truncated": png(64, 64, b"\0" * 64 * 193)[:-20],
    "nothing": b"",
    "zeros": bytes(1000),
    "html": b"<html><script>alert(1)</script></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(ls) system\n",
    "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "gif_cut": b"GIF89a\xff\xff\xff\xff\x80\0\0",
    "wav_lies": b"RIFF\xff\xff\xff\x7fWAVEfmt \x10\0\0\0\1\0" + b"\xff" * 6 + bytes(8) + b"data\xff\xff\xff\x7f",
    "jpeg_head": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "mp4_head": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41\xff\xff\xff\xffmoov",
    "ogg_head": b"OggS" + bytes(40),
    "flac_head": b"fLaC\0\0\0\x22" + b"\xff" * 34,
}


def url(data, mime="image/png"):
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def part(kind, data):
    if kind == "input_audio":
        return {"type": kind, kind: {"data": base64.b64encode(data).decode() or "AAAA", "format": "wav"}}
    return {"type": kind, kind: {"url": url(data)}}


def ask(running, *parts):
    body = {"model": "tiny", "messages": [{"role": "user", "content": list(parts)}]}
    with running.http() as client:
        return client.post("/v1/chat/completions", json=body)


def assert_refused(answer, *words):
    assert answer.status_code in (400, 413), answer.text
    message = answer.json()["error"]["message"]
    assert "ernie5-serve" not in message and "/tmp" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("kind", ["image_url", "video_url", "input_audio"])
def test_hostile_media_are_bad_requests(serve, tmp_path, kind):
    running = serve()
    for name, data in HOSTILE.items():
        answer = ask(running, part(kind, data))
        assert answer.status_code == 400, f"{name}: {answer.text}"
        assert_refused(answer)
    good = ask(running, {"type": "image_url", "image_url": {"url": url(Path(noise_picture(tmp_path)).read_bytes())}})
    assert good.status_code == 200
    assert running.engine.requests[0].prompt and len(running.engine.requests) == 1


@pytest.mark.parametrize(
    "address",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "data:image/png,abc",
        "data:image/png;base64,@@@@",
        "data:;base64,AAAA",
        "http://127.0.0.1:1/a.png",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/a.png",
        "http://user@host/a.png",
        "http://host:99999/a.png",
        "ftp://host/a.png",
        "https://",
        "\x00",
    ],
)
def test_no_path_and_no_address_is_read(serve, address):
    assert_refused(ask(serve(), {"type": "image_url", "image_url": {"url": address}}))


def test_limits_of_media(serve, tmp_path):
    picture = Path(noise_picture(tmp_path, 40, 40)).read_bytes()
    running = serve(limits=replace(LIMITS, media=2, media_pixels=1500, media_bytes=10_000))
    assert_refused(ask(running, part("image_url", picture)), "1,500")
    small = part("image_url", Path(noise_picture(tmp_path)).read_bytes())
    assert_refused(ask(running, small, small, small), "limit of 2")
    assert_refused(ask(running, part("image_url", bytes(20_000))), "10,000")
    film = part("video_url", Path(noise_film(tmp_path, 65)).read_bytes())
    running = serve()
    assert_refused(ask(running, film), "more than 64 frames")


@pytest.mark.parametrize("does", ["time.sleep(60)", "os.abort()", "print('no JSON', flush=True)"])
def test_decoder_that_hangs_or_dies_costs_its_request_alone(serve, tmp_path, monkeypatch, does):
    program = f"import os, sys, time; print('ready', flush=True); sys.stdin.readline(); {does}"
    picture = part("image_url", Path(noise_picture(tmp_path)).read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(examination, "_PROGRAM", ("-c", program))
        running = serve(limits=replace(LIMITS, media_seconds=0.5))
        assert_refused(ask(running, picture), "decode")
    assert ask(running, picture).status_code == 200


class Host(http.server.BaseHTTPRequestHandler):
    """Of pictures, and of traps."""

    picture = b""

    def do_GET(self):
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "/picture")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.picture if self.path == "/picture" else bytes(100_000))

    def log_message(self, *arguments):
        pass


@pytest.fixture
def host(tmp_path):
    Host.picture = Path(noise_picture(tmp_path)).read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_media_are_fetched_from_allowed_hosts_alone(serve, host):
    def named(name, path="picture"):
        return {"type": "image_url", "image_url": {"url": f"http://{name}:{host}/{path}"}}

    running = serve(
        access=Access(url_hosts=(f"127.0.0.1:{host}", f"localhost:{host}")), limits=replace(LIMITS, media_bytes=50_000)
    )
    assert ask(running, named("127.0.0.1")).status_code == 200
    assert_refused(ask(running, named("127.0.0.1", "away")), "redirects are not followed")
    assert_refused(ask(running, named("127.0.0.1", "large")), "larger than")
    assert_refused(ask(running, named("localhost")), "not of the public internet")
    assert_refused(ask(running, named("127.0.0.2")), "--allow-url-host")
    assert_refused(ask(serve(), named("127.0.0.1")), "--allow-url-host")
