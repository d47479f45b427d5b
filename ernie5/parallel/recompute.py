"""Recompute: a part of a block keeps only its input and runs its forward again going backward (arXiv:1604.06174)."""

import functools
from collections.abc import Callable
from typing import Any

import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute

from ernie5.layers.pages import LayerPages
from ernie5.model.block import Block
from ernie5.model.ernie5 import Ernie5ForCausalLM


def recompute_blocks(model: Ernie5ForCausalLM, policy: str = "full") -> None:
    """Makes every block of the model recompute while it trains; losses and gradients stay bit for bit the same.

    policy: that of `TrainConfig.recompute`. full_offload: the inputs of blocks wait in pinned memory of the host.
    """
    if policy == "none":
        return
    for block in model.blocks().values():
        part = _part(block, policy)
        part.forward = functools.partial(_forward, part.forward, policy == "full_offload")


def _part(block: Block, policy: str) -> nn.Layer:
    return {"attention": block.self_attn, "feed_forward": block.mlp}.get(policy, block)


def _forward(forward: Callable, offload: bool, hidden_states: paddle.Tensor, *others: Any) -> Any:
    """What `forward` gives: hidden states, or a named tuple that has them beside what needs no gradient."""
    if not paddle.is_grad_enabled() or any(isinstance(other, LayerPages) for other in others):
        return forward(hidden_states, *others)
    beside = None

    def run(states: paddle.Tensor) -> paddle.Tensor:
        nonlocal beside
        output = forward(states, *others)
        if isinstance(output, paddle.Tensor):
            return output
        beside = output._replace(hidden_states=None)  # this function is kept: they must not be
        return output.hidden_states

    hidden_states = recompute(run, hidden_states, offload_indices=[0] if offload else [])
    return hidden_states if beside is None else beside._replace(hidden_states=hidden_states)
