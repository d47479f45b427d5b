"""Fleet's groups are those of the mesh: when Paddle numbers ranks in another way, this shows it."""

import json
import subprocess
import sys

import pytest

from ernie5.config.schema import ParallelConfig
from ernie5.parallel.mesh import make_mesh
from tests.parallel import fleet_groups

pytestmark = pytest.mark.multiproc
EIGHT = [
    {"pipeline": 2, "tensor": 2, "expert": 4},
    {"pipeline": 2, "context": 2, "expert": 2},
    {"tensor": 4, "expert": 8},
    {"pipeline": 4, "tensor": 2},
]


@pytest.mark.parametrize(
    "degrees", [EIGHT[0], *(pytest.param(one, marks=pytest.mark.slow) for one in EIGHT[1:])], ids=str
)
def test_fleet_sees_the_processes_as_the_mesh_does(degrees, tmp_path):
    command = [sys.executable, fleet_groups.__file__, "8", json.dumps(degrees), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    mesh = make_mesh(8, ParallelConfig(**degrees))
    for rank in range(8):
        found = json.loads((tmp_path / f"groups_{rank}.json").read_text())
        assert found["stage"] == mesh.place(rank).pipeline
        assert found["tensor"] == mesh.group(rank, "tensor")
        assert found["pipeline"] == mesh.group(rank, "pipeline")
        if mesh.expert > 1:
            assert found["expert"] == mesh.experts(rank)
        else:
            assert found["rows"] == mesh.group(rank, "data", "context")
