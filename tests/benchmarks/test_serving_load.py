"""The load test of the server, short: no error, no leak, the answers of one client alone."""

import subprocess
import sys

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from ernie5.model.folder import save_pretrained
from tests.runs import ROOT
from tests.vision_models import text_tokenizer, vision_config, vision_model


@pytest.mark.slow
def test_many_clients_are_told_what_one_alone_is(tiny_model_config, tmp_path):
    text_tokenizer().save_pretrained(tmp_path / "text")
    folder = save_pretrained(vision_model(tiny_model_config, vision_config()), tmp_path / "model", tmp_path / "text")
    options = ["--clients", "8", "--minutes", "0.1", "--questions", "10"]
    command = [sys.executable, str(ROOT / "benchmarks" / "serving_load.py"), str(folder), *options]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "| - errors | 0 |" in result.stdout and "| pages in use at the end | 0 |" in result.stdout
