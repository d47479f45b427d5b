"""Processes that have the same rows encode each medium once, and get what each would have encoded."""

import json
import subprocess
import sys

import pytest

from tests.train import encoding as program

ENCODED = {  # of four micro-batches with media that those with the same rows have, by each process
    "tensor and data": [2, 2, 2, 2],
    "stages of context": [1, 1, 1, 1],
}


@pytest.mark.multiproc
@pytest.mark.parametrize("layout", ["tensor and data", pytest.param("stages of context", marks=pytest.mark.slow)])
def test_each_medium_is_encoded_once_to_the_same_bits(layout, tmp_path):
    command = [sys.executable, program.__file__, layout, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    found = [json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in range(4)]
    assert all(one["same"] for one in found)
    assert [one["encoded"]["vision"] for one in found] == ENCODED[layout]
    assert [one["encoded"]["audio"] for one in found] == ENCODED[layout]
    assert [one["failed"] for one in found] == ["part 1 is bad"] * 4
