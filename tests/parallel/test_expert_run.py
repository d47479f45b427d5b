"""A run whose experts are spread over processes is the run on one, but for the rounding of sums, and so are its
checkpoints."""

from pathlib import Path

import numpy as np
import pytest

from ernie5.model.weights import load_tensors
from tests.parallel.test_run import OPTIONS, assert_same_run, cut
from tests.runs import overrides, records, start_tool, train

# (processes, over how many the experts are spread, rows of a forward pass): seven rows give some processes idle passes
LAYOUTS = [(2, 2, 1), (4, 2, 1), (4, 4, 1), (3, 1, 2)]
SEVEN = ["stages.0.batch_tokens=448", "stages.0.num_tokens=7168"]


def train_spread(run_dir: Path, processes: int, degree: int, *arguments: str, options: tuple[str, ...] = ()) -> None:
    given = [*OPTIONS, *SEVEN, f"parallel.expert={degree}", *options]
    process = start_tool(run_dir, *overrides(given), "--nproc_per_node", str(processes), *arguments)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("one")
    train(run_dir, *OPTIONS, *SEVEN)
    return run_dir


@pytest.fixture(scope="module")
def spread(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("spread")
    train_spread(run_dir, 2, 2)
    return run_dir


def assert_same_state(a: Path, b: Path) -> None:
    """Of the optimizer, whose moments are sums of what the gradients were."""
    states = [load_tensors(run / "checkpoints" / "step_00000016", "optimizer") for run in (a, b)]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        np.testing.assert_allclose(states[1][name], tensor, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.multiproc
def test_experts_on_two_processes_learn_what_they_learn_on_one(one, spread):
    assert_same_run(one, spread)
    assert_same_state(one, spread)
    ends = [[record for record in records(run, "eval") if record["complete"]] for run in (one, spread)]
    assert ends[0][0]["loss"] == pytest.approx(ends[1][0]["loss"], rel=1e-5)  # of the whole model, gathered


@pytest.mark.multiproc
@pytest.mark.slow
@pytest.mark.parametrize(("processes", "degree", "micro"), LAYOUTS[1:], ids=str)
def test_so_they_do_in_every_layout(one, tmp_path, processes, degree, micro):
    train_spread(tmp_path, processes, degree, options=(f"stages.0.micro_batch_rows={micro}",))
    assert_same_run(one, tmp_path)
    assert_same_state(one, tmp_path)


@pytest.mark.multiproc
def test_one_process_goes_on_where_spread_experts_stopped(one, spread, tmp_path):
    train(cut(spread, tmp_path / "run"), *OPTIONS, *SEVEN, resume="auto")
    assert_same_run(one, tmp_path / "run")


@pytest.mark.multiproc
def test_spread_experts_go_on_where_one_process_stopped(one, tmp_path):
    train_spread(cut(one, tmp_path / "run"), 4, 2, "--resume", "auto")
    assert_same_run(one, tmp_path / "run")
    assert_same_state(one, tmp_path / "run")
