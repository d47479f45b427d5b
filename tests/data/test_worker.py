"""Worker processes: light, never waited for in vain, and never left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest

from ernie5.config.schema import DataConfig, SourceConfig
from ernie5.data.loader import Loader
from ernie5.data.sources import open_source
from ernie5.errors import Fault
from tests.data.tiny_tokenizer import BreakingTokenizer, TinyTokenizer

ROOT = Path(__file__).parents[2]


def open_loader(tmp_path, tokenizer, num_workers=2):
    (tmp_path / "a.txt").write_text("\n".join(f"document {i}" for i in range(50)))
    source = SourceConfig(name="s", path=str(tmp_path / "a.txt"), document_separator="line")
    config = DataConfig(train=(source,), num_workers=num_workers, prefetch_batches=2)
    return Loader([open_source(source)], tokenizer, config, max_seq_len=32, longest_seq_len=32, seed=0)


def processes(loader):
    return [worker.process for worker in loader._pool._workers]


def is_alive(pid):
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_data_and_tokenizers_import_no_paddle():
    code = "import sys, ernie5.data.worker, ernie5.data.loader, ernie5.tokenizers.text; print('paddle' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_killed_worker_is_a_fault_that_names_it(tmp_path):
    with open_loader(tmp_path, TinyTokenizer()) as loader:
        loader.next_rows(2)
        victim = processes(loader)[1]
        victim.kill()
        with pytest.raises(Fault, match=rf"data worker 1 \(process {victim.pid}\) was killed by SIGKILL"):
            for _ in range(1000):
                loader.next_rows(2)


def test_loader_can_go_on_after_a_fault(tmp_path):
    expected = open_loader(tmp_path, TinyTokenizer(), num_workers=0)
    with open_loader(tmp_path, TinyTokenizer(), num_workers=1) as loader:
        loader.next_rows(2), expected.next_rows(2)
        processes(loader)[0].kill()
        with pytest.raises(Fault):
            for _ in range(1000):
                loader.next_rows(2), expected.next_rows(2)
        assert (loader.next_rows(2).input_ids == expected.next_rows(2).input_ids).all()


def test_worker_that_exits_is_a_fault_not_a_hang(tmp_path):
    with open_loader(tmp_path, BreakingTokenizer("document 7", partial(os._exit, 3))) as loader:
        with pytest.raises(Fault, match="exited with status 3"):
            for _ in range(100):
                loader.next_rows(1)


def test_bug_in_a_worker_comes_out_with_its_traceback(tmp_path):
    with open_loader(tmp_path, BreakingTokenizer("document 7", partial(int, "seven"))) as loader:
        with pytest.raises(Fault, match=r"(?s)failed at sample \d+:.*invalid literal for int.*'seven'"):
            for _ in range(100):
                loader.next_rows(1)


def test_workers_ignore_the_signals_meant_for_the_training_process(tmp_path):
    with open_loader(tmp_path, TinyTokenizer()) as loader:
        loader.next_rows(20)  # rows of both workers: they have started
        for process in processes(loader):
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
        for _ in range(30):
            loader.next_rows(1)


def test_close_leaves_no_process(tmp_path):
    loader = open_loader(tmp_path, TinyTokenizer())
    loader.next_rows(1)
    workers = processes(loader)
    loader.close()
    assert not any(is_alive(process.pid) for process in workers)


def test_prefetch_is_bounded(tmp_path):
    with open_loader(tmp_path, TinyTokenizer()) as loader:
        loader.next_rows(1)
        pool = loader._pool
        assert wait_until(lambda: pool._ready_tokens >= pool.max_tokens)
        time.sleep(0.2)
        largest = 8 * 14  # a chunk of documents of at most 13 characters and two marks
        assert pool._ready_tokens < pool.max_tokens + largest


PARENT = """
import sys, time
from pathlib import Path
from tests.data.test_worker import open_loader, processes
from tests.data.tiny_tokenizer import TinyTokenizer
loader = open_loader(Path(sys.argv[1]), TinyTokenizer())
loader.next_rows(1)
print(*[process.pid for process in processes(loader)], flush=True)
time.sleep(60)
"""


def test_workers_end_when_the_training_process_is_killed(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2 and all(map(is_alive, workers))
        parent.kill()
    assert wait_until(lambda: not any(map(is_alive, workers)))
