"""Balance as a run shows it: 500 steps with the bias moving, and the same with the bias frozen."""

import numpy as np
import pytest

from tests.runs import records, train

STEPS = (
    "stages.0.num_tokens=128000",
    "stages.0.decay_fraction=0.0",
    "train.log_steps=10",  # a record's load is that of ten steps
    "train.eval_steps=50",
    "train.save_steps=0",
    "train.sample_steps=0",
)


def max_over_mean(run_dir, last: int) -> np.ndarray:
    """[records, layers] of the last records."""
    return np.array([record["max_over_mean"] for record in records(run_dir, "train")][-last:])


@pytest.mark.slow
def test_after_500_steps_the_load_is_even_and_without_the_bias_it_is_not(tmp_path):
    train(tmp_path / "moving", *STEPS)
    train(tmp_path / "frozen", *STEPS, "stages.0.expert_bias_speed=0.0")
    moving, frozen = (max_over_mean(tmp_path / name, 5) for name in ("moving", "frozen"))
    assert records(tmp_path / "moving", "train")[-1]["step"] == 500
    assert moving.max() < 2.0
    assert frozen.mean() > moving.mean() + 0.2
    last_loads = [record["load"] for record in records(tmp_path / "moving", "train") if "load" in record][-1]
    assert min(map(min, last_loads)) > 0  # no expert is dead
