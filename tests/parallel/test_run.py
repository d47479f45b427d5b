"""A run on two processes is the run on one, but for the rounding of sums."""

import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ernie5.errors import Fault
from ernie5.model.weights import load_tensors
from ernie5.train.balance import ExpertBalance
from ernie5.train.trainer import Trainer
from tests.runs import losses, overrides, records, start_tool, train

# Five rows on two processes; every kind of draw; the prediction block is in the tiny model.
OPTIONS = [
    "stages.0.batch_tokens=320",
    "stages.0.num_tokens=5120",
    "stages.0.elastic.depth_probability=0.5",
    "stages.0.elastic.width_probability=0.5",
    "stages.0.elastic.sparsity_probability=0.5",
    "stages.0.elastic.min_layers=2",
    "stages.0.elastic.min_experts=4",
    "train.save_steps=8",
    "train.sample_steps=0",
    "tokenizer.bpe_dropout=0.1",
]

pytestmark = pytest.mark.multiproc


def train_on_two(run_dir: Path, *arguments: str) -> None:
    process = start_tool(run_dir, *overrides(OPTIONS), "--nproc_per_node", "2", *arguments)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("one")
    train(run_dir, *OPTIONS)
    return run_dir


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("two")
    train_on_two(run_dir)
    return run_dir


def weights(run_dir: Path) -> dict[str, np.ndarray]:
    return load_tensors(run_dir / "checkpoints" / "step_00000016")


def cut(run_dir: Path, to: Path) -> Path:
    """The run as if it had ended at step 8."""
    shutil.copytree(run_dir, to)
    shutil.rmtree(to / "checkpoints" / "step_00000016")
    return to


def assert_same_run(a: Path, b: Path) -> None:
    assert len(losses(a)) == len(losses(b)) == 16
    np.testing.assert_allclose(losses(a), losses(b), rtol=1e-5)
    loads = [[record["load"] for record in records(run, "train") if "load" in record] for run in (a, b)]
    assert loads[0] and [np.sum(x) for x in loads[0]] == [np.sum(x) for x in loads[1]]
    assert weights(a).keys() == weights(b).keys()
    for name, tensor in weights(a).items():
        np.testing.assert_allclose(weights(b)[name], tensor, rtol=1e-4, atol=1e-4, err_msg=name)


def test_two_processes_train_what_one_trains(one, two):
    draws = {tuple(record["subnet"].values()) for record in records(one, "train")}
    assert len(draws) > 3
    assert all(record["loss_mtp"] for record in records(two, "train"))
    assert_same_run(one, two)


def test_two_runs_on_two_processes_are_bit_identical(two, tmp_path):
    train_on_two(tmp_path)
    assert losses(tmp_path) == losses(two)
    for name, tensor in weights(two).items():
        np.testing.assert_array_equal(weights(tmp_path)[name], tensor)


def test_one_process_goes_on_where_two_stopped(one, two, tmp_path):
    train(cut(two, tmp_path / "run"), *OPTIONS, resume="auto")
    assert_same_run(one, tmp_path / "run")


def test_two_processes_go_on_where_one_stopped(one, tmp_path):
    train_on_two(cut(one, tmp_path / "run"), "--resume", "auto")
    assert_same_run(one, tmp_path / "run")


def test_a_signal_that_comes_while_processes_agree_waits_for_the_next_time():
    class Asking:
        def summed(self, values):
            if trainer.asked_by is None:
                Trainer._ask_to_stop(trainer, signal.SIGTERM, None)
            return values

    settings, state = SimpleNamespace(train=SimpleNamespace(max_steps=0)), SimpleNamespace(step=1)
    trainer = SimpleNamespace(asked_by=None, stop_signal=None, ranks=Asking(), config=settings, state=state)
    assert not Trainer._must_stop(trainer)  # the others do not know of it
    assert Trainer._must_stop(trainer) and trainer.stop_signal == signal.SIGTERM


def test_an_exchange_that_fails_in_the_middle_of_a_step_leaves_a_checkpoint_that_goes_on_exactly(
    one, tmp_path, monkeypatch
):
    exchange, calls = ExpertBalance.sum_over, []

    def fail_at_the_fifth(self, ranks):
        calls.append(1)
        if len(calls) == 5:
            raise Fault("another process does not answer")
        exchange(self, ranks)

    monkeypatch.setattr(ExpertBalance, "sum_over", fail_at_the_fifth)
    with pytest.raises(Fault):
        train(tmp_path, *OPTIONS)
    train(tmp_path, *OPTIONS, resume="auto")
    assert losses(tmp_path) == losses(one)
