"""Processes that look at media before the engine does; one that crashes or hangs is replaced."""

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from ernie5.errors import Fault
from ernie5.serving.errors import ApiError

_ROOT = Path(__file__).parents[2]  # where the package lies, for an interpreter that was not told
_PROGRAM = ("-m", "ernie5.serving.examiner")
_START_SECONDS = 60.0


class Examiners:
    """At most `count` processes, started when they are needed. Used on one event loop."""

    def __init__(self, count: int, seconds: float):
        self._free = asyncio.Semaphore(count)
        self._idle: list[asyncio.subprocess.Process] = []
        self._seconds = seconds

    async def examine(self, question: dict[str, Any], where: str) -> None:
        """Raises ApiError for a file that cannot be decoded in time; `where` stands for its path in the message."""
        async with self._free:
            process = self._idle.pop() if self._idle else await _start()
            try:
                process.stdin.write(json.dumps(question).encode() + b"\n")
                line = await asyncio.wait_for(process.stdout.readline(), self._seconds)
                error = json.loads(line)["error"]  # of one that died the line is empty
                self._idle.append(process)
            except asyncio.TimeoutError:
                error = f"{where}: takes longer than {self._seconds:g} s to decode: give less"
            except (OSError, ValueError):
                error = f"{where}: cannot be decoded: give a whole file of a usual format"
            finally:
                if process not in self._idle:
                    await _end(process)
        if error is not None:
            raise ApiError(error.replace(question["path"], where), param=where, code="invalid_media")

    async def warm_up(self) -> None:
        """Starts one, so that the first medium need not wait for it."""
        self._idle.append(await _start())

    async def close(self) -> None:
        while self._idle:
            await _end(self._idle.pop())


async def _start() -> asyncio.subprocess.Process:
    """One that has told that it is ready."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *_PROGRAM,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl+C is for the server, which ends them
    )
    try:
        if not await asyncio.wait_for(process.stdout.readline(), _START_SECONDS):
            raise Fault("the program that looks at media does not start: run python -m ernie5.serving.examiner")
    except BaseException:
        await _end(process)
        raise
    return process


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
