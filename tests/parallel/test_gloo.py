"""Every method of the process groups for CPUs, on 2, 4 and 8 processes."""

import inspect
import json
import subprocess
import sys

import pytest
from paddle.distributed import collective, parallel

from tests.parallel import primitives


@pytest.fixture(scope="module", params=[2, 4, 8])
def found(request, tmp_path_factory) -> list[dict[str, str]]:
    """What each process says of each method: nothing, or what was wrong."""
    folder = tmp_path_factory.mktemp("primitives")
    command = [sys.executable, primitives.__file__, str(request.param), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(request.param)]


@pytest.mark.multiproc
@pytest.mark.parametrize("name", primitives.CHECKS)
def test_a_group_can(found, name):
    wrong = {rank: of_rank[name] for rank, of_rank in enumerate(found) if of_rank[name]}
    assert not wrong, "\n".join(f"rank {rank}: {text}" for rank, text in wrong.items())


def test_paddle_builds_its_groups_by_the_function_that_is_replaced():
    parameters = list(inspect.signature(collective._new_process_group_impl).parameters)
    assert parameters[:7] == ["backend", "store", "rank", "world_size", "group_name", "pg_options", "group_id"]
    assert parallel._new_process_group_impl is collective._new_process_group_impl
    used = inspect.getsource(collective.new_group), inspect.getsource(parallel.init_parallel_env)
    assert all("_new_process_group_impl(" in source for source in used)
