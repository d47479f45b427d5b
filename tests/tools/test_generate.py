"""tools/generate.py on a freshly trained tiny model."""

import subprocess
import sys

import pytest

from tests.runs import ROOT, train


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    train(run_dir, "train.max_steps=2")
    return run_dir / "model"


def generate(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / "generate.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_the_prompt_goes_on_and_a_seed_repeats(model_dir):
    outputs = [
        generate(str(model_dir), "--prompt", "The class", "--max-new-tokens", "6", "--seed", seed).stdout
        for seed in ("1", "1", "2")
    ]
    assert outputs[0].startswith("The class") and len(outputs[0]) > len("The class\n")
    assert outputs[0] == outputs[1] != outputs[2]


def test_a_member_that_the_model_lacks_is_refused(model_dir):
    result = generate(str(model_dir), "--num-layers", "99")
    assert result.returncode == 2 and "99" in result.stderr and "Traceback" not in result.stderr


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    result = generate(str(tmp_path))
    assert result.returncode == 2 and "config.json" in result.stderr and "Traceback" not in result.stderr
