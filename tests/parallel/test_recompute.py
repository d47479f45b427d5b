"""Recompute changes memory, not results."""

from tests.runs import losses, train


def test_recomputed_steps_are_bit_identical(tmp_path):
    for policy in ("none", "full"):
        train(tmp_path / policy, "train.max_steps=3", f"train.recompute={policy}")
    assert losses(tmp_path / "full") == losses(tmp_path / "none")


def test_blocks_are_run_again_in_the_backward_pass(tmp_path, monkeypatch):
    from ernie5.model.block import Block

    calls = []
    forward = Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, *a: calls.append(self) or forward(self, *a))
    options = [
        "train.max_steps=1",
        "train.recompute=full",
        "stages.0.micro_batch_rows=4",
        "generation.max_new_tokens=1",
    ]
    train(tmp_path, *options)
    blocks = len(set(map(id, calls)))
    trained = [call for call in calls[: 2 * blocks]]
    assert blocks == 4 and trained[:blocks] == trained[blocks:][::-1]  # forward in order, again backwards
