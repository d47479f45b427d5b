"""The planner against one step of real processes: parameters and optimizer state held, bytes sent by group."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ernie5.config.schema import StageConfig
from ernie5.planning.assumptions import Policy
from ernie5.planning.case import Case
from ernie5.planning.layout import Layout
from ernie5.planning.traffic import rank_traffic
from tests.planning import sent_step as program
from tests.planning.cases import CLUSTER

pytestmark = pytest.mark.multiproc
LAYOUTS = [
    (2, {"tensor": 2}),
    (2, {"pipeline": 2}),
    (2, {"context": 2}),
    (2, {"sharding": 2}),
    (4, {"sharding": 2}),
    (4, {"context": 4, "expert": 4}),
    (4, {"tensor": 2, "expert": 4}),
    (4, {"pipeline": 2, "expert": 2}),
    (8, {"context": 2, "tensor": 2, "sharding": 2}),
    (8, {"pipeline": 2, "tensor": 2, "expert": 4, "sharding": 2}),
]
ALWAYS = 2  # those of two processes at the head of the list


@pytest.mark.parametrize(
    ("count", "degrees"),
    [one if i < ALWAYS else pytest.param(*one, marks=pytest.mark.slow) for i, one in enumerate(LAYOUTS)],
    ids=str,
)
def test_a_step_is_as_planned(count: int, degrees: dict[str, int], tmp_path):
    command = [sys.executable, program.__file__, str(count), json.dumps(degrees), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    found = [json.loads((tmp_path / f"step_{rank}.json").read_text()) for rank in range(count)]

    shared = degrees.get("pipeline", 1) * degrees.get("context", 1) * degrees.get("tensor", 1)
    layout = Layout(data=count // shared, **degrees)
    tokens = program.SEQ * program.ROWS
    stage = StageConfig(name="one", max_seq_len=program.SEQ, num_tokens=tokens, batch_tokens=tokens)
    case = Case(program.model_config(), stage, layout, Policy(precision="float32"))
    for pipeline in range(layout.pipeline):
        of_stage = [one for one in found if one["stage"] == pipeline]
        parameters = case.parameters(pipeline)
        assert {one["parameters"] for one in of_stage} == {parameters.total}
        owned = (parameters.cut + parameters.whole + parameters.tied) / layout.sharding
        owned += parameters.experts / layout.expert_sharding
        assert np.mean([one["state"] for one in of_stage]) == pytest.approx(2 * owned)
        planned = rank_traffic(case, CLUSTER, pipeline)
        for kind, flow in planned.items():
            measured = np.mean([one["sent"][kind] for one in of_stage])
            if kind == "expert":  # which experts a fresh router takes is not even: test_sent_bytes.py compares it
                assert (measured > 0) == (flow.total > 0)
            else:
                assert measured == pytest.approx(flow.total, rel=0.05), kind
