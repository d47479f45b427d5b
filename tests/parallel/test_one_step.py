"""A step of a model that processes share, of every kind of layer, against the step of one process."""

import subprocess
import sys

import numpy as np
import pytest

from ernie5.modality.batch import make_batch
from ernie5.model.subnet import full_subnet
from tests.parallel import one_step
from tests.parallel.one_step import CASES

pytestmark = pytest.mark.multiproc


SLOW = "tensor and experts, recomputed", "pipeline and experts, recomputed"  # "context, recomputed" stays


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES]
)
def test_its_loss_gradients_and_their_norm_are_those_of_one_process(case, tmp_path):
    processes, _, changes, _ = CASES[case]
    command = [sys.executable, one_step.__file__, str(processes), case, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    found = dict(np.load(tmp_path / "found.npz"))

    model = one_step.build(changes, "none")
    loss = one_step.objective(model(make_batch(one_step.rows()), full_subnet(model.config)))
    loss.backward()
    gradients = {name: one.grad.numpy() for name, one in model.named_parameters() if one.grad is not None}
    assert found.pop("loss") == pytest.approx(float(loss), rel=1e-6)
    squares = sum(float((one.astype(np.float64) ** 2).sum()) for one in gradients.values())
    assert found.pop("squares") == pytest.approx(squares, rel=1e-5)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(found[name], gradient, rtol=1e-4, atol=1e-5 * scale, err_msg=name)
