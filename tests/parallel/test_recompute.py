"""Recompute changes memory, not results."""

import numpy as np
import paddle
import pytest

from ernie5.layers.attention import Attention
from ernie5.layers.moe import MoE
from ernie5.modality.batch import make_batch
from ernie5.model.block import Block
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import full_subnet
from ernie5.parallel.recompute import recompute_blocks
from tests.runs import losses, train
from tests.sequences import packed_batch, random_documents

PARTS = {"full": Block, "full_offload": Block, "attention": Attention, "feed_forward": MoE}


def step(config, policy: str) -> dict[str, np.ndarray]:
    """The loss and all gradients."""
    paddle.seed(1)
    model = Ernie5ForCausalLM(config)
    recompute_blocks(model, policy)
    rows = packed_batch([random_documents([9, 7], config.vocab_size)])
    loss = model(make_batch(rows), full_subnet(config))
    total = loss.text + loss.mtp
    total.backward()
    return {"loss": total.numpy()} | {name: one.grad.numpy() for name, one in model.named_parameters()}


@pytest.mark.parametrize("policy", PARTS)
def test_losses_and_gradients_are_bit_identical(policy, tiny_model_config):
    found, expected = step(tiny_model_config, policy), step(tiny_model_config, "none")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("policy", PARTS)
def test_its_part_of_each_block_is_run_again_in_the_backward_pass(policy, tiny_model_config, monkeypatch):
    calls = {kind: [] for kind in PARTS.values()}
    for kind, of_kind in calls.items():
        forward = kind.forward
        monkeypatch.setattr(kind, "forward", lambda self, *a, f=forward, c=of_kind: c.append(self) or f(self, *a))
    step(tiny_model_config, policy)
    blocks = tiny_model_config.num_hidden_layers + 1
    again = calls[PARTS[policy]]
    assert len(again) == 2 * blocks and again[:blocks] == again[blocks:][::-1]  # in order, then backwards
    once = {Attention, MoE} - {PARTS[policy]} if PARTS[policy] is not Block else set()
    assert all(len(calls[kind]) == blocks for kind in once)


def test_offload_moves_the_inputs_of_blocks_and_nothing_else(tiny_model_config, monkeypatch):
    moved, to_cpu = [], paddle.Tensor.cpu
    monkeypatch.setattr(paddle.Tensor, "cpu", lambda self: moved.append(self.shape) or to_cpu(self))
    step(tiny_model_config, "full")
    assert not moved
    step(tiny_model_config, "full_offload")
    blocks = tiny_model_config.num_hidden_layers + 1
    assert moved == [[1, 16, tiny_model_config.hidden_size]] * blocks


@pytest.mark.parametrize("policy", PARTS)
def test_without_gradients_nothing_is_kept_and_nothing_run_again(policy, tiny_model_config, monkeypatch):
    monkeypatch.setattr("ernie5.parallel.recompute.recompute", None)
    with paddle.no_grad():
        paddle.seed(1)
        model = Ernie5ForCausalLM(tiny_model_config)
        recompute_blocks(model, policy)
        rows = packed_batch([random_documents([9, 7], tiny_model_config.vocab_size)])
        assert float(model(make_batch(rows), full_subnet(tiny_model_config)).text) > 0


def test_recomputed_runs_are_bit_identical(tmp_path):
    for policy in ("none", "full"):
        train(tmp_path / policy, "train.max_steps=3", f"train.recompute={policy}")
    assert losses(tmp_path / "full") == losses(tmp_path / "none")
