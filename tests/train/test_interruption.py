"""Signals and kills, in a process of its own."""

import random
import signal
import time

import pytest

from tests.runs import losses, overrides, records, start_tool

OFTEN = overrides(["train.save_steps=2", "train.eval_steps=0", "train.sample_steps=0", "tokenizer.bpe_dropout=0.1"])


def wait_for_step(run_dir, step: int, process) -> None:
    """Returns when the run has logged this step; fails when it ended before."""
    for _ in range(6000):
        if (run_dir / "metrics.jsonl").exists() and any(r["step"] >= step for r in records(run_dir, "train")):
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    raise AssertionError(f"no step {step} after a minute")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_cleanly(tmp_path, number):
    process = start_tool(tmp_path, *overrides(["train.save_steps=0", "train.eval_steps=0"]))
    wait_for_step(tmp_path, 3, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors and "--resume auto" in errors
    last = losses(tmp_path)[-1][0]
    assert (tmp_path / "checkpoints" / f"step_{last:08d}").is_dir()


@pytest.mark.slow
def test_killed_at_ten_random_moments_the_losses_are_bit_identical(tmp_path):
    whole = start_tool(tmp_path / "whole", *OFTEN)
    _, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    rng = random.Random(0)
    kills = 0
    while kills < 10:
        resume = ["--resume", "auto"] if list((tmp_path / "cut" / "checkpoints").glob("step_*")) else []
        process = start_tool(tmp_path / "cut", *OFTEN, *resume)
        time.sleep(rng.uniform(1.0, 4.0))
        if process.poll() is None:
            process.kill()
            kills += 1
        elif process.returncode == 0:  # it got to the end: kill a new one from the start of another folder
            assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
            (tmp_path / "cut").rename(tmp_path / f"finished{kills}")
        process.communicate()
    process = start_tool(tmp_path / "cut", *OFTEN, *(["--resume", "auto"] if resume else []))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
