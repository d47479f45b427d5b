"""Processes that are started by hand, as on several terminals: whatever is wrong is told to all in one sentence."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ernie5.errors import Fault, UserError
from ernie5.parallel.roll_call import Seat, call_roll, patience, read_seat
from tests.parallel import muster

TWO = {
    "PADDLE_TRAINER_ID": "1",
    "PADDLE_TRAINERS_NUM": "2",
    "PADDLE_TRAINER_ENDPOINTS": "a:1,b:2",
    "PADDLE_CURRENT_ENDPOINT": "b:2",
}


class Terminals:
    """Starts processes of one run, each by hand."""

    def __init__(self, folder: Path):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def start(
        self, rank: int, size: int, *, text: str = "", join: bool = False, patience: float = 30
    ) -> subprocess.Popen:
        environment = {
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_TRAINERS_NUM": str(size),
            "PADDLE_TRAINER_ENDPOINTS": ",".join(f"127.0.0.1:{self.port + i}" for i in range(size)),
            "PADDLE_CURRENT_ENDPOINT": f"127.0.0.1:{self.port + rank}",
            "PADDLE_DISTRI_BACKEND": "gloo",
            "GLOG_minloglevel": "2",
            "ERNIE5_JOIN_TIMEOUT": str(patience),
        }
        command = [sys.executable, muster.__file__, str(self.folder), text, *(["join"] if join else [])]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)


@pytest.fixture
def terminals(tmp_path) -> Terminals:
    return Terminals(tmp_path)


def ends(*processes: subprocess.Popen) -> list[tuple[int, str]]:
    """Status and what was said, of each."""
    said = [process.communicate(timeout=90)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


@pytest.mark.multiproc
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_they_come_in_any_order_and_late(terminals, order):
    processes = []
    for rank in order:
        processes.append(terminals.start(rank, 3))
        time.sleep(1.0)
        assert not list(terminals.folder.iterdir()) or len(processes) == 3
    assert ends(*processes) == [(0, "")] * 3


@pytest.mark.multiproc
def test_those_who_do_not_come_are_named_to_all(terminals):
    start = time.monotonic()
    said = ends(terminals.start(0, 4, patience=2), terminals.start(2, 4, patience=2))
    assert time.monotonic() - start < 20
    assert [status for status, _ in said] == [1, 1] and said[0] == said[1]
    assert said[0][1].startswith("fault: processes 1, 3 of 4 did not come to 127.0.0.1:") and "within 2 s" in said[0][1]


@pytest.mark.multiproc
def test_a_first_process_that_does_not_come_is_named(terminals):
    ((status, said),) = ends(terminals.start(1, 2, patience=1))
    assert status == 1 and said.startswith("fault: the first process of this run did not answer at 127.0.0.1:")


@pytest.mark.multiproc
def test_one_that_left_before_all_were_there_is_missing(terminals):
    first, second = terminals.start(0, 3, patience=6), terminals.start(1, 3, patience=6)
    time.sleep(2.0)
    second.kill()
    third = terminals.start(2, 3, patience=6)
    said = ends(first, third)
    assert [status for status, _ in said] == [1, 1] and "process 1 of 3 did not come" in said[0][1]
    second.communicate()


@pytest.mark.multiproc
def test_different_numbers_of_processes_are_told_to_all(terminals):
    said = ends(terminals.start(0, 2), terminals.start(1, 3))
    assert said[0] == said[1] and said[0][0] == 2
    assert "process 1 was started as one of 3 (PADDLE_TRAINERS_NUM), but the first as one of 2" in said[0][1]


@pytest.mark.multiproc
def test_one_number_for_two_processes_is_told_to_all(terminals):
    said = ends(terminals.start(0, 3), terminals.start(1, 3), terminals.start(1, 3))
    assert {status for status, _ in said} == {2} and len(set(said)) == 1
    assert "two processes of this run have the number 1" in said[0][1]


@pytest.mark.multiproc
def test_a_port_in_use_is_named(terminals):
    with socket.create_server(("127.0.0.1", terminals.port)):
        said = ends(terminals.start(0, 2, patience=1), terminals.start(1, 2, patience=1))
    assert [status for status, _ in said] == [2, 1]
    assert f"127.0.0.1:{terminals.port}, where the processes of this run are to meet" in said[0][1]
    assert all(len(text.splitlines()) == 1 for _, text in said)


@pytest.mark.multiproc
def test_what_they_say_is_gathered_and_one_configuration_passes(terminals):
    processes = [terminals.start(rank, 3, text="{a: 1}", join=True) for rank in range(3)]
    assert ends(*processes) == [(0, "")] * 3
    said = {(terminals.folder / str(rank)).read_text() for rank in range(3)}
    assert said == {"['', 'ä', 'ää'] ((1, 'embed.weight'), None)"}


@pytest.mark.multiproc
def test_a_configuration_that_differs_is_refused_by_all(terminals):
    texts = ["{model: {x: 1, y: [1, 2]}}", "{model: {x: 1, y: [1, 3]}}"]
    said = ends(*[terminals.start(rank, 2, text=text, join=True) for rank, text in enumerate(texts)])
    assert said[0] == said[1] and said[0][0] == 2
    assert said[0][1].startswith("error: model.y.1 is 2 for process 0 and 3 for process 1: ")


def test_a_stranger_who_comes_does_not_count(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("ERNIE5_JOIN_TIMEOUT", "1")
    stranger = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import socket, sys, time\n"
            "while True:\n"
            "    try: connection = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
            "    except OSError: time.sleep(0.02); continue\n"
            "    connection.sendall(b'GET / HTTP/1.0\\n'); break",
            str(port),
        ]
    )
    with pytest.raises(Fault, match="^process 1 of 2 did not come"):
        call_roll(Seat(0, 2, "127.0.0.1", port))
    assert stranger.wait(10) == 0


def test_the_address_is_the_one_that_paddle_takes():
    assert read_seat({}) is None and read_seat({"PADDLE_TRAINERS_NUM": "1"}) is None
    assert read_seat(TWO) == Seat(1, 2, "a", 1)
    assert read_seat(TWO | {"PADDLE_MASTER": "m:3"}) == Seat(1, 2, "m", 3)
    assert read_seat(TWO | {"PADDLE_MASTER": "m:3", "MASTER_ADDR": "n", "MASTER_PORT": "4"}) == Seat(1, 2, "n", 4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PADDLE_TRAINER_ID", "2"),
        ("PADDLE_TRAINER_ID", "first"),
        ("PADDLE_TRAINERS_NUM", "0"),
        ("PADDLE_TRAINERS_NUM", "3"),
        ("PADDLE_TRAINER_ENDPOINTS", ""),
        ("PADDLE_MASTER", "host"),
        ("PADDLE_MASTER", "host:70000"),
    ],
)
def test_a_variable_that_cannot_be_right_is_named(name, value):
    wanted = "PADDLE_TRAINER_ENDPOINTS" if value == "3" else name
    with pytest.raises(UserError, match=wanted):
        read_seat(TWO | {name: value})


@pytest.mark.parametrize("value", ["soon", "0", "inf", "nan"])
def test_a_wait_that_is_no_number_is_refused(monkeypatch, value):
    monkeypatch.setenv("ERNIE5_JOIN_TIMEOUT", value)
    with pytest.raises(UserError, match="ERNIE5_JOIN_TIMEOUT"):
        patience()
