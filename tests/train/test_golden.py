"""The whole of training, frozen: the losses of the tiny run."""

import json

import numpy as np

from tests.golden.make_tiny_losses import LICENSE
from tests.runs import ROOT, losses, train


def test_twenty_steps_of_the_tiny_run_have_the_stored_losses(tmp_path):
    train(tmp_path, *LICENSE)
    stored = json.loads((ROOT / "tests" / "golden" / "tiny_losses.json").read_text())
    # the last digits differ between processors, and a choice of experts may tip over them
    np.testing.assert_allclose([loss for _, loss, _ in losses(tmp_path)], stored, rtol=1e-3)
