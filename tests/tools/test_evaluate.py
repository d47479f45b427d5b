"""tools/evaluate.py: what it refuses before it computes anything."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "options, message",
    [(("--num", "-1"), "--num is -1"), ((), "is no digit world: make one with tools/make_digits.py")],
)
def test_mistakes_are_told_in_one_sentence(tmp_path: Path, options: tuple[str, ...], message: str):
    command = [sys.executable, "tools/evaluate.py", "no_model", "--world", str(tmp_path), *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert result.stderr.count("\n") == 1
