"""Recompute: a block keeps its inputs alone and runs its forward again in the backward pass (arXiv:1604.06174)."""

import functools

import paddle
from paddle.distributed.fleet.utils import recompute

from ernie5.model.block import Block, BlockOutput
from ernie5.model.ernie5 import Ernie5ForCausalLM


def recompute_blocks(model: Ernie5ForCausalLM) -> None:
    """Makes every block of the model recompute while it trains; losses and gradients stay bit for bit the same."""
    for block in model.blocks().values():
        block.forward = functools.partial(_forward, block)


def _forward(block: Block, hidden_states, layout, expert_mask, top_k: int, cache=None) -> BlockOutput:
    if cache is not None or not paddle.is_grad_enabled():
        return Block.forward(block, hidden_states, layout, expert_mask, top_k, cache)
    load = None

    def run(states):
        nonlocal load
        output = Block.forward(block, states, layout, expert_mask, top_k)
        load = output.tokens_per_expert
        return output.hidden_states

    return BlockOutput(recompute(run, hidden_states), load)
