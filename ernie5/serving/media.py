"""Media of a request become files in a private folder, looked at before the engine reads them, and removed after it."""

import asyncio
import base64
import binascii
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ernie5.data.sample import Audio, Image, Segment, Text, Video
from ernie5.serving.errors import ApiError
from ernie5.serving.examination import Examiners
from ernie5.serving.fetch import fetch
from ernie5.serving.forms import AudioPart, ChatMessage, ImagePart, Part, TextPart
from ernie5.serving.settings import ServerSettings
from ernie5.serving.template import Turn

_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w.+-]+=[\w.+-]+)*;base64,")
_PREFIX = "ernie5-serve-"


class MediaRoom:
    """The private folder of a server. It is in memory or on disk, as the place for temporary files is."""

    def __init__(self, settings: ServerSettings):
        self._settings = settings
        self._examiners = Examiners(2, settings.limits.media_seconds)
        _remove_abandoned()
        self._root = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))

    async def warm_up(self) -> None:
        await self._examiners.warm_up()

    async def close(self) -> None:
        await self._examiners.close()
        shutil.rmtree(self._root, ignore_errors=True)

    def folder(self) -> "MediaFolder":
        return MediaFolder(self._settings, self._root, self._examiners)


class MediaFolder:
    """The media of one request; a context manager that removes them. Its folder is made with the first."""

    def __init__(self, settings: ServerSettings, root: Path, examiners: Examiners):
        self._settings, self._root, self._examiners = settings, root, examiners
        self._path: Path | None = None
        self._count = 0

    def __enter__(self) -> "MediaFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)

    async def turns(self, messages: Sequence[ChatMessage]) -> list[Turn]:
        """Raises ApiError for media that cannot be had or decoded."""
        turns = []
        for i, message in enumerate(messages):
            parts = message.content if message.content is not None else ""
            content = (
                [_text(parts)] if isinstance(parts, str) and parts else
                [await self.segment(part, f"messages[{i}].content[{j}]") for j, part in enumerate(parts)]
            )  # fmt: skip
            turns.append(Turn(message.role, tuple(content), message.reasoning_content or ""))
        return turns

    async def segment(self, part: Part, where: str) -> Segment:
        if isinstance(part, TextPart):
            return _text(part.text)
        if isinstance(part, AudioPart):
            data = await self._decoded(part.input_audio.data, f"{where}.input_audio.data")
            return await self.sound(data, part.input_audio.role, where)
        vision = self._settings.served.config.vision
        if vision is None:
            raise ApiError(f"{where}: this model has no vision: leave pictures and films out", param=where)
        url = part.image_url.url if isinstance(part, ImagePart) else part.video_url.url
        path = self._store(await self._content(url, where), where)
        if isinstance(part, ImagePart):
            await self._examine(where, kind="image", path=path, max_pixels=self._settings.limits.media_pixels)
            return Image(path, "understand")
        fps = part.video_url.fps
        await self._examine(where, kind="video", path=path, fps=fps, max_frames=vision.max_frames)
        return Video(path, fps, "understand")

    async def sound(self, data: bytes, role: str, where: str) -> Audio:
        audio = self._settings.served.config.audio
        if audio is None or not self._settings.served.speaks:
            raise ApiError(f"{where}: this model does not hear: leave sounds out", param=where)
        if role == "speaker" and not self._settings.served.clones:
            raise ApiError(f"{where}: this model takes no voices: leave reference clips out", param=where)
        path = self._store(data, where)
        rate, longest = audio.sample_rate, audio.max_seconds
        await self._examine(where, kind="audio", path=path, sample_rate=rate, max_seconds=longest)
        return Audio(path, role)

    async def voice(self, data: str, where: str) -> Audio:
        """A reference clip given as base64."""
        return await self.sound(await self._decoded(data, where), "speaker", where)

    async def _content(self, url: str, where: str) -> bytes:
        match = _DATA_URL.match(url[:200])
        if match is not None:
            return await self._decoded(url[match.end() :], where)
        if url.startswith(("http://", "https://")):
            limits = self._settings.limits
            return await fetch(url, self._settings.access.url_hosts, limits.media_bytes, limits.media_seconds, where)
        raise ApiError(f"{where}: is no data URL: give data:TYPE;base64,...", param=where, code="invalid_url")

    async def _decoded(self, text: str, where: str) -> bytes:
        if len(text) * 3 // 4 > self._settings.limits.media_bytes + 3:
            raise ApiError(
                f"{where}: is larger than the limit of {self._settings.limits.media_bytes:,} bytes: make it smaller",
                status=413,
                param=where,
            )
        try:
            return await asyncio.to_thread(base64.b64decode, text, validate=True)
        except (binascii.Error, ValueError):
            raise ApiError(f"{where}: is not base64: encode the file's bytes", param=where) from None

    def _store(self, data: bytes, where: str) -> str:
        self._count += 1
        if self._count > self._settings.limits.media:
            limit = self._settings.limits.media
            raise ApiError(f"{where}: is one medium more than the limit of {limit}: ask with fewer", param=where)
        if self._path is None:
            self._path = Path(tempfile.mkdtemp(dir=self._root))
        path = self._path / f"{self._count}.bin"
        path.write_bytes(data)
        return str(path)

    async def _examine(self, where: str, **question: object) -> None:
        await self._examiners.examine(question, where)


def _text(text: str) -> Text:
    return Text(text, loss=False)


def _remove_abandoned() -> None:
    """Folders of servers that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        number = folder.name.removeprefix(_PREFIX).partition("-")[0]
        try:
            is_mine = folder.stat().st_uid == os.getuid() and not folder.is_symlink()
            if number.isdigit() and is_mine and not _is_running(int(number)):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
