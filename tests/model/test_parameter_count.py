"""The closed forms of `ernie5.planning.parameters` against the model as it is built."""

from pathlib import Path

import paddle
import pytest

from ernie5.config.load import load_model_config
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.planning.parameters import count_parameters

MODELS = Path(__file__).parents[2] / "configs/model"
ALLOCATED = ("tiny", "small")
LAZY = sorted(path.stem for path in MODELS.glob("*.yaml") if path.stem not in ALLOCATED)


def built_size(model: paddle.nn.Layer) -> int:
    """Numbers in all parameters, a shared tensor once."""
    sizes = {}
    for parameter in model.parameters():
        numbers = 1
        for length in parameter.shape:
            numbers *= length
        sizes[id(parameter)] = numbers
    return sum(sizes.values())


@pytest.mark.parametrize("name", ALLOCATED)
def test_a_built_model_has_as_many_parameters_as_counted(name: str):
    config = load_model_config(MODELS / f"{name}.yaml")
    assert built_size(Ernie5ForCausalLM(config)) == count_parameters(config).total


@pytest.mark.parametrize("name", LAZY)
def test_a_model_built_without_memory_has_as_many_parameters_as_counted(name: str):
    config = load_model_config(MODELS / f"{name}.yaml")
    with paddle.LazyGuard():
        model = Ernie5ForCausalLM(config)
    assert built_size(model) == count_parameters(config).total
