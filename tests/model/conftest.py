"""A small model whose weights are large enough that every part of it shows in the result."""

import dataclasses
from collections.abc import Callable

import numpy as np
import paddle
import pytest

from ernie5.config.schema import ModelConfig
from ernie5.model.ernie5 import Ernie5ForCausalLM


@pytest.fixture
def config(tiny_model_config) -> ModelConfig:
    """A dense layer first, shared experts, a prediction block; both kinds of layer, all kinds of parameter."""
    moe = dataclasses.replace(tiny_model_config.moe, num_dense_layers=1, num_shared_experts=1)
    return dataclasses.replace(tiny_model_config, moe=moe, intermediate_size=24)


@pytest.fixture
def build() -> Callable[[ModelConfig], Ernie5ForCausalLM]:
    """Builds a model with perturbed weights, norms and balancing biases; the same for the same config."""

    def make(config: ModelConfig) -> Ernie5ForCausalLM:
        paddle.seed(7)
        rng = np.random.default_rng(7)
        model = Ernie5ForCausalLM(config)
        for name, tensor in model.state_dict().items():
            if name.endswith("expert_bias"):
                values = rng.normal(0, 0.1, tensor.shape)
            elif "norm" in name:
                values = rng.uniform(0.5, 1.5, tensor.shape)
            else:
                values = rng.normal(0, 0.2, tensor.shape)
            tensor.set_value(values.astype(np.float32))
        return model

    return make
