"""The engine in a thread of its own: requests go in by a queue, events come out on the event loop."""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from ernie5.errors import Fault
from ernie5.inference.request import Event, Finished, Request, Usage

logger = logging.getLogger(__name__)

_TOO_LATE = object()


class Engine(Protocol):
    """What a server needs of `ernie5.inference.engine.Engine`."""

    @property
    def is_idle(self) -> bool: ...

    def submit(self, request: Request) -> int: ...

    def cancel(self, number: int) -> None: ...

    def step(self) -> list[Event]: ...

    def statistics(self) -> Any: ...


class _Listener(NamedTuple):
    answers: "Answers"
    index: int


class Answers:
    """What some requests asked together are answered, as it comes. Used on the event loop alone."""

    def __init__(self, thread: "EngineThread", count: int):
        self._thread = thread
        self._events: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
        self._open = count
        self.numbers: list[int] = []

    def deliver(self, index: int, what: Any) -> None:
        self._events.put_nowait((index, what))

    async def until(self, deadline: float) -> AsyncIterator[tuple[int, Any]]:
        """(place of the request, what it was answered), until each has ended with a `Finished`.

        deadline: by the loop's clock. Raises asyncio.TimeoutError behind it.
        """
        # One timer for all events: to wait for each with a time limit of its own would make a task for each.
        timer = asyncio.get_running_loop().call_at(deadline, self.deliver, -1, _TOO_LATE)
        try:
            async for event in self._all():
                yield event
        finally:
            timer.cancel()

    async def _all(self) -> AsyncIterator[tuple[int, Any]]:
        while self._open:
            index, what = await self._events.get()
            if what is _TOO_LATE:
                raise asyncio.TimeoutError
            self._open -= isinstance(what, Finished)
            yield index, what

    def cancel(self) -> None:
        """Ends what is not yet ended; the engine frees its memory before its next step."""
        self._thread.cancel(self)


class EngineThread:
    """Owns an engine: nothing else calls it. It sleeps while there is nothing to do."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._listeners: dict[int, _Listener] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._is_stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_broken = False

    def start(self) -> None:
        """Events go to the event loop that is running now."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread after its current step; requests that run are dropped."""
        self._commands.put(self._stop)
        await asyncio.to_thread(self._thread.join)

    async def ask(self, requests: Sequence[Request]) -> Answers:
        """Submits the requests, all or none. Raises UserError for what cannot be asked."""
        answers = Answers(self, len(requests))
        try:
            await self._call(lambda: self._submit(requests, answers))
        except asyncio.CancelledError:
            answers.cancel()
            raise
        return answers

    async def statistics(self) -> Any:
        """The engine's own, between two of its steps."""
        return await self._call(self._engine.statistics)

    def cancel(self, answers: Answers) -> None:
        self._commands.put(lambda: self._cancel(answers.numbers))  # behind the command that fills them in

    async def _call(self, function: Callable[[], Any]) -> Any:
        """What the function returns in the engine's thread, or raises there."""
        future = self._loop.create_future()

        def tell(result: Any, error: Exception | None) -> None:
            if future.done():  # nobody waits for it any more
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        def run() -> None:
            try:
                result, error = function(), None
            except Exception as raised:
                result, error = None, raised
            self._tell_loop(tell, result, error)

        self._commands.put(run)
        return await future

    # From here on: in the engine's thread.

    def _run(self) -> None:
        while not self._is_stopping:
            self._obey()
            if self._is_stopping or self._engine.is_idle:
                continue
            try:
                events = self._engine.step()
            except Exception as error:
                self._recover(error)
            else:
                self._publish(events)

    def _obey(self) -> None:
        """All commands that are there; with nothing else to do it waits for the first."""
        is_waiting = self._engine.is_idle
        while True:
            try:
                command = self._commands.get(block=is_waiting)
            except queue.Empty:
                return
            command()
            is_waiting = False

    def _submit(self, requests: Sequence[Request], answers: Answers) -> None:
        if self.is_broken:
            raise Fault("the engine has failed: restart the server")
        try:
            for index, request in enumerate(requests):
                number = self._engine.submit(request)
                answers.numbers.append(number)
                self._listeners[number] = _Listener(answers, index)
        except Exception:
            self._cancel(answers.numbers)
            raise

    def _cancel(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if self._listeners.pop(number, None) is not None:
                self._engine.cancel(number)

    def _publish(self, events: Sequence[Event]) -> None:
        delivered = []
        for event in events:
            listener = self._listeners.get(event.number)
            if isinstance(event.what, Finished):
                self._listeners.pop(event.number, None)
            if listener is not None:
                delivered.append((listener, event.what))
        if delivered:
            self._tell_loop(_deliver, delivered)

    def _recover(self, error: Exception) -> None:
        """A step failed as a whole: what was running cannot go on, what comes next may."""
        logger.error("a step of the engine failed; what it ran is given up", exc_info=error)
        failed = Finished("failed", Usage(0, 0, 0), "the engine failed")
        lost = [(listener, failed) for listener in self._listeners.values()]
        try:
            for number in self._listeners:
                self._engine.cancel(number)
            self._listeners.clear()
            self._engine.step()  # in which it lets go of them
            self.is_broken = not self._engine.is_idle
        except Exception:
            logger.exception("nor can the engine let go of it")
            self.is_broken = True
        self._tell_loop(_deliver, lost)
        if self.is_broken:
            logger.error("the engine is given up: the server ends")
            self._wait_for_stop()

    def _wait_for_stop(self) -> None:
        while not self._is_stopping:
            self._commands.get()()

    def _stop(self) -> None:
        self._is_stopping = True

    def _tell_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: nobody listens
            logger.debug("an event came after the end of the server")


def _deliver(delivered: Sequence[tuple[_Listener, Any]]) -> None:
    for listener, what in delivered:
        listener.answers.deliver(listener.index, what)
