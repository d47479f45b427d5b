"""What every test finds and leaves: the same seeds, and Paddle's global state as it was."""

import random
from collections.abc import Iterator

import numpy as np
import paddle
import pytest

from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig

SEED = 20260204
FLAGS = [name for name in paddle.base.core.globals().keys() if paddle.base.core.globals().is_public(name)]


@pytest.fixture(autouse=True)
def fresh_global_state() -> Iterator[None]:
    """Seeds before the test; default dtype, device, flags and mode after it; parameter names numbered from 0 in it."""
    random.seed(SEED)
    np.random.seed(SEED)
    paddle.seed(SEED)
    default_dtype, device, flags = paddle.get_default_dtype(), paddle.get_device(), paddle.get_flags(FLAGS)
    with paddle.utils.unique_name.guard():
        yield
    if not paddle.in_dynamic_mode():
        paddle.disable_static()
    paddle.set_default_dtype(default_dtype)
    if paddle.get_device() != device:
        paddle.set_device(device)
    flags_now = paddle.get_flags(FLAGS)
    paddle.set_flags({name: value for name, value in flags.items() if flags_now[name] != value})


@pytest.fixture(scope="session")
def tiny_model_config() -> ModelConfig:
    """A model with every part of the text backbone that builds and runs in milliseconds."""
    return ModelConfig(
        name="tiny_test",
        vocab_size=96,
        hidden_size=32,
        num_hidden_layers=3,
        attention=AttentionConfig(num_attention_heads=4, num_key_value_heads=2, head_dim=8),
        moe=MoEConfig(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16),
    )
