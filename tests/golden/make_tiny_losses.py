"""Writes tiny_losses.json: the losses of the tiny run's twenty steps. Run it when a change is meant to alter them.

python -m tests.golden.make_tiny_losses
"""

import json
import tempfile
from pathlib import Path

from tests.runs import ROOT, losses, train

# a text that no version of Python changes
LICENSE = (
    f"data.train.0.path={ROOT / 'LICENSE'}",
    "data.train.0.format=text",
    "data.train.0.document_separator=blank_line",
)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder), *LICENSE)
        values = [loss for _, loss, _ in losses(Path(folder))]
    Path(__file__).with_name("tiny_losses.json").write_text(json.dumps(values, indent=0) + "\n")
