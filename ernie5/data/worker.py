"""Worker processes that encode samples ahead of the training process, in order.

A worker is a fresh Python, not a fork (Paddle's threads do not survive one) and not a `multiprocessing` child (which
would run the user's main program again, Paddle's import included). It holds nothing that could be lost and ends
when its socket closes, so it cannot outlive the training process, however that one ends.
"""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections import deque
from multiprocessing.connection import Connection

from ernie5.data.encoder import Encoder, Skipped
from ernie5.data.sequence import EncodedSample
from ernie5.errors import Fault, UserError

CHUNK = 8  # samples in one task
AHEAD = 2  # tasks a worker has at a time: one in hand, one waiting
# Ctrl-C and a cluster's SIGTERM reach every process of a job; the training process decides when its workers end.
_START = (
    "import json, signal, sys; [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]; "
    "sys.path[:] = json.loads(sys.argv[1]); from ernie5.data.worker import serve; serve(int(sys.argv[2]))"
)
_GONE = (EOFError, ConnectionError)


def serve(handle: int) -> None:
    """A worker's main: takes an Encoder, then first numbers of chunks, and answers with lists of encoded samples."""
    try:
        with Connection(handle) as connection:
            encoder = connection.recv()
            while True:
                connection.send(_encode_chunk(encoder, connection.recv()))
    except _GONE:
        return


def _encode_chunk(encoder: Encoder, first: int) -> list[EncodedSample | Skipped | Exception]:
    """The samples of a chunk, up to the first that fails, whose error stands in its place."""
    results = []
    for number in range(first, first + CHUNK):
        try:
            results.append(encoder(number))
        except UserError as error:
            return [*results, error]
        except Exception:
            return [*results, Fault(f"a data worker failed at sample {number}:\n{traceback.format_exc()}")]
    return results


class _Worker:
    """One process and this end of its socket."""

    def __init__(self, name: str, encoder: bytes):
        self.name = name
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps([str(path) for path in sys.path]), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # out of the terminal's reach, also while it starts
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # it does no linear algebra
            )
        self.connection = Connection(ours.detach())
        self.encoder = encoder

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def death(self) -> str:
        """How the process ended, given that its socket is closed."""
        try:
            status = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"


class WorkerPool:
    """Encoded samples first, first + 1, ... by `get`, prepared ahead by worker processes.

    A thread moves finished chunks from the workers, whose sockets hold little, to a queue of up to `max_tokens`
    tokens. Chunk c is made by worker c % num_workers, so the order does not depend on their speed.
    """

    def __init__(self, encoder: Encoder, num_workers: int, first: int, max_tokens: int):
        self.max_tokens = max_tokens
        self._next = first
        self._ready: deque = deque()
        self._ready_tokens = 0
        self._error: Exception | None = None
        self._closed = False
        self._changed = threading.Condition()
        data = pickle.dumps(encoder)
        self._workers = [_Worker(f"data worker {i}", data) for i in range(num_workers)]
        self._thread = threading.Thread(target=self._receive, args=(first,), name="data receiver", daemon=True)
        self._thread.start()

    def get(self, number: int) -> EncodedSample | Skipped:
        """The next sample in order. Raises what the worker raised, or Fault if a worker has died."""
        assert number == self._next, "samples come in order"
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._error)
            if not self._ready:
                raise self._error
            result = self._ready.popleft()
            if isinstance(result, Exception):
                self._ready.appendleft(result)  # asked again, it fails again
                raise result
            self._ready_tokens -= _num_tokens(result)
            self._changed.notify_all()
        self._next += 1
        return result

    def close(self) -> None:
        """Ends the workers; none is left when this returns."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.kill()  # closes its socket, which ends the thread's wait
        self._thread.join()
        for worker in self._workers:
            worker.connection.close()

    def _receive(self, first: int) -> None:
        asked = received = 0  # chunks
        try:
            for worker in self._workers:
                worker.connection.send_bytes(worker.encoder)
            while True:
                while asked < received + AHEAD * len(self._workers):
                    worker = self._workers[asked % len(self._workers)]
                    worker.connection.send(first + asked * CHUNK)
                    asked += 1
                worker = self._workers[received % len(self._workers)]
                results = worker.connection.recv()
                received += 1
                with self._changed:
                    self._ready.extend(results)
                    self._ready_tokens += sum(map(_num_tokens, results))
                    self._changed.notify_all()
                    if isinstance(results[-1], Exception):
                        return
                    self._changed.wait_for(lambda: self._closed or self._ready_tokens < self.max_tokens)
                    if self._closed:
                        return
        except Exception as error:  # whatever it is: the training process must not wait for an answer for ever
            self._fail(worker, error)

    def _fail(self, worker: _Worker, error: Exception) -> None:
        with self._changed:
            if self._closed:
                return
            self._error = Fault(
                f"{worker.name} (process {worker.process.pid}) {worker.death()} ({type(error).__name__}): "
                "start again with --resume auto, and with data.num_workers=0 if it happens again"
            )
            self._changed.notify_all()


def _num_tokens(result: EncodedSample | Skipped | Exception) -> int:
    return len(result) if isinstance(result, EncodedSample) else 0
