"""The planner's bytes against those that processes send, counted at their sockets."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from ernie5.config.schema import StageConfig
from ernie5.planning.assumptions import Policy
from ernie5.planning.case import Case
from ernie5.planning.layout import Layout
from ernie5.planning.traffic import rank_traffic, zero_traffic
from tests.planning import sent_bytes as program
from tests.planning.cases import CLUSTER, MODEL

pytestmark = pytest.mark.multiproc
FLOAT32 = Policy(precision="float32")


@pytest.fixture(scope="module", params=[2, 4, 8])
def sent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """[processes, 2]: bytes of a layer's dispatch, forward and backward, and of a sum of gradients."""
    folder = tmp_path_factory.mktemp("sent")
    command = [sys.executable, program.__file__, str(request.param), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    return np.stack([np.load(folder / f"rank_{rank}.npy") for rank in range(request.param)])


def test_rows_to_experts_are_predicted_within_5_percent(sent: np.ndarray):
    moe = replace(MODEL.moe, num_experts=program.EXPERTS, num_experts_per_tok=program.TOP_K, num_dense_layers=0)
    model = replace(MODEL, hidden_size=program.HIDDEN, num_hidden_layers=1, num_nextn_predict_layers=0, moe=moe)
    count = len(sent)
    tokens = program.TOKENS
    stage = StageConfig(name="one", max_seq_len=tokens, num_tokens=tokens * count, batch_tokens=tokens * count)
    case = Case(model, stage, Layout(data=count, expert=count), FLOAT32)
    predicted = rank_traffic(case, CLUSTER, 0)["expert"].total
    np.testing.assert_allclose(sent[:, 0], predicted, rtol=0.05)


def test_sums_of_gradients_are_predicted_exactly(sent: np.ndarray):
    predicted = zero_traffic(program.PARAMETERS, len(sent), 1, FLOAT32).total
    np.testing.assert_array_equal(sent[:, 1], predicted)
