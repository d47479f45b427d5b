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
    options = [*OFTEN, *overrides(["stages.0.num_tokens=76800"])]  # 300 steps

    def start(name: str):
        has_checkpoint = any((tmp_path / name / "checkpoints").glob("step_*"))
        return start_tool(tmp_path / name, *options, *(["--resume", "auto"] if has_checkpoint else []))

    def finish(process) -> None:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors

    finish(start("whole"))
    rng = random.Random(0)
    for step in sorted(rng.sample(range(3, 297), 10)):
        process = start("cut")
        wait_for_step(tmp_path / "cut", step, process)  # not a time: computers differ
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
    finish(start("cut"))
    assert len(losses(tmp_path / "whole")) == 300
    resumed = [record for record in records(tmp_path / "cut", "event") if record["text"].startswith("resumed")]
    assert len(resumed) == 10
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
