"""The processes of a run meet before Paddle joins them: who is missing, or does not belong, is told in one sentence.

Paddle's own meeting waits a quarter of an hour, cannot be interrupted, and names nobody. Here the first process listens
at the address that Paddle will use next; the others come, in any order, however late within `ERNIE5_JOIN_TIMEOUT`
seconds, and say their number and how many they believe to be. Then all go on, or all end with the same sentence.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from ernie5.errors import Fault, UserError
from ernie5.parallel.processes import why_one_ended

PATIENCE = 600.0  # seconds; ERNIE5_JOIN_TIMEOUT
_GREETING = "ernie5 roll call 1"
_HELLO_SECONDS = 5.0  # that somebody who has come has to say who he is
_RETRY_SECONDS = 0.2


class Seat(NamedTuple):
    """This process among those of the run, as its launcher says."""

    rank: int
    size: int
    host: str  # where the first process listens
    port: int


def patience() -> float:
    """Seconds that processes wait for each other when a run begins. UserError if the setting is no number of them."""
    text = os.environ.get("ERNIE5_JOIN_TIMEOUT", str(PATIENCE))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"ERNIE5_JOIN_TIMEOUT is {text!r}: set it to a number of seconds above 0")
    return seconds


def read_seat(environment: Mapping[str, str]) -> Seat | None:
    """From the variables that Paddle's launcher sets; None for one process. UserError where they cannot be right."""
    size = _whole_number(environment, "PADDLE_TRAINERS_NUM", 1)
    if size == 1:
        return None
    rank = _whole_number(environment, "PADDLE_TRAINER_ID", 0, size)
    endpoints = environment.get("PADDLE_TRAINER_ENDPOINTS", "")
    if len(endpoints.split(",")) != size:
        raise UserError(
            f"PADDLE_TRAINER_ENDPOINTS is {endpoints!r}: name host:port of all {size} processes "
            "(PADDLE_TRAINERS_NUM), with commas between them"
        )
    if "PADDLE_CURRENT_ENDPOINT" not in environment:
        raise UserError(f"PADDLE_CURRENT_ENDPOINT is not set: give it host:port of process {rank}")
    address = environment.get("PADDLE_MASTER") or endpoints.split(",")[0]
    if environment.get("MASTER_ADDR") and environment.get("MASTER_PORT"):  # which Paddle looks at first
        address = f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"PADDLE_MASTER is {address!r}: write the address of the first process as host:port")
    return Seat(rank, size, host, int(port))


def call_roll(seat: Seat) -> None:
    """Returns when all processes of the run are there, the same for all of them.

    Fault where one does not come or ends; UserError where one does not belong, or the address is in use.
    """
    if seat.rank == 0:
        _Host(seat).gather()
    else:
        _come(seat)


class _Host:
    """The first process, which everybody comes to."""

    def __init__(self, seat: Seat):
        self._seat = seat
        self._patience = patience()
        self._there: dict[int, socket.socket] = {}

    def gather(self) -> None:
        seat = self._seat
        try:
            server = socket.create_server(("", seat.port), backlog=seat.size)
        except OSError as error:
            raise UserError(
                f"{seat.host}:{seat.port}, where the processes of this run are to meet (PADDLE_MASTER), cannot be "
                f"listened at ({error.strerror}): choose a free port"
            ) from None
        try:
            with server:  # closed before they go on: what they ask for next is Paddle's, and must not come here
                server.settimeout(_RETRY_SECONDS)
                self._wait(server)
        except (Fault, UserError) as error:
            self._tell({"kind": type(error).__name__, "text": str(error)})
            raise
        self._tell({"kind": ""})

    def _wait(self, server: socket.socket) -> None:
        deadline = time.monotonic() + self._patience
        while missing := [rank for rank in range(1, self._seat.size) if rank not in self._there]:
            if why := why_one_ended():
                raise Fault(f"{why}: start again")
            if time.monotonic() > deadline:
                some = ", ".join(map(str, missing))
                raise Fault(
                    f"process{'es' if len(missing) > 1 else ''} {some} of {self._seat.size} did not come to "
                    f"{self._seat.host}:{self._seat.port} within {self._patience:g} s (ERNIE5_JOIN_TIMEOUT): start all "
                    "of them, and look at the logs of those that are missing"
                )
            with suppress(TimeoutError):
                self._admit(server.accept()[0])
            if len(self._there) == self._seat.size - 1:
                self._forget_those_who_left()

    def _admit(self, guest: socket.socket) -> None:
        """Strangers are sent away; UserError for one of this run that cannot be."""
        guest.settimeout(_HELLO_SECONDS)
        hello = _read(guest)
        if hello is None or hello.get("greeting") != _GREETING:
            guest.close()
            return
        rank, size = hello["rank"], hello["size"]
        taken = rank in self._there
        self._there[-1 if taken else rank] = guest  # so that it is told as well
        if taken or rank == 0:
            raise UserError(f"two processes of this run have the number {rank} (PADDLE_TRAINER_ID): give each its own")
        if size != self._seat.size:
            raise UserError(
                f"process {rank} was started as one of {size} (PADDLE_TRAINERS_NUM), but the first as one of "
                f"{self._seat.size}: give all the same number"
            )

    def _forget_those_who_left(self) -> None:
        for rank, guest in list(self._there.items()):
            guest.setblocking(False)
            with suppress(BlockingIOError):
                if not guest.recv(1, socket.MSG_PEEK):
                    del self._there[rank]

    def _tell(self, answer: dict) -> None:
        """They close first: the port is free at once for Paddle."""
        for guest in self._there.values():
            guest.settimeout(_HELLO_SECONDS)
            with suppress(OSError), guest:
                guest.sendall(json.dumps(answer).encode() + b"\n")
                guest.recv(1)


def _come(seat: Seat) -> None:
    """To the first process, which may be started later, and decides once it is there."""
    seconds = patience()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((seat.host, seat.port), _HELLO_SECONDS) as host:
            host.sendall(json.dumps({"greeting": _GREETING, "rank": seat.rank, "size": seat.size}).encode() + b"\n")
            host.settimeout(seconds + _HELLO_SECONDS)
            answer = _read(host)
            if answer is not None:
                if answer.get("kind"):
                    raise (UserError if answer["kind"] == "UserError" else Fault)(answer["text"])
                return
        time.sleep(_RETRY_SECONDS)
    raise Fault(
        f"the first process of this run did not answer at {seat.host}:{seat.port} within {seconds:g} s "
        "(ERNIE5_JOIN_TIMEOUT): start it, and see that PADDLE_MASTER is the same everywhere"
    )


def _read(connection: socket.socket) -> dict | None:
    """One line of JSON; None from somebody who does not speak so."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < 2**16:
            part = connection.recv(4096)
            if not part:
                return None
            line += part
        found = json.loads(line)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _whole_number(environment: Mapping[str, str], name: str, least: int, below: int | None = None) -> int:
    text = environment.get(name, "1" if name == "PADDLE_TRAINERS_NUM" else "")
    if text.isdecimal() and least <= int(text) and (below is None or int(text) < below):
        return int(text)
    span = f"from {least} to {below - 1}" if below is not None else f"of {least} or more"
    raise UserError(f"{name} is {text!r}: set it to a whole number {span}")
