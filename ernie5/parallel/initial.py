"""Initial weights, each drawn by its name: a process draws what it has of a model, and never holds the rest.

A model is built without memory, loses what others have, and is then drawn. The weights are a function of the seed and
of names alone, the same under every layout.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import paddle
from paddle import Tensor, nn

from ernie5.parallel.pieces import WHOLE, Cut

STACKED = ".experts."  # in the names of parameters that are stacks of matrices, each drawn by itself


def like(parameter: Tensor, layer: nn.Layer, shape: Sequence[int]) -> Tensor:
    """A parameter for `layer` of the type of `parameter`, and of `shape`, that will be drawn as that one would be."""
    with paddle.LazyGuard():
        made = layer.create_parameter(shape, dtype=parameter.dtype, is_bias=parameter.ndim == 1)
    if not is_drawn(parameter):
        made.set_init_func(parameter._init_func)
    return made


def is_drawn(parameter: Tensor) -> bool:
    """Whether it has values."""
    return parameter._is_initialized()


def draw(model: nn.Layer, seed: int, cuts: Mapping[str, Cut]) -> None:
    """Gives the parameters that have no values theirs; `cuts`: of those of which this process has a piece."""
    for name, parameter in model.named_parameters():
        if not is_drawn(parameter):
            _draw(parameter, [seed, *name.encode()], cuts.get(name, WHOLE), STACKED in name)
    paddle.seed(seed)
    np.random.seed(seed % 2**32)


@paddle.no_grad()
def _draw(parameter: Tensor, address: list[int], cut: Cut, is_stacked: bool) -> None:
    if is_stacked and cut.axis == 0:
        length, *shape = parameter.shape
        first = cut.place * length
        parts = [_drawn(parameter, shape, [*address, first + i]) for i in range(length)]
        parameter.set_value(paddle.stack(parts))
    elif cut.degree > 1:
        shape = list(parameter.shape)
        shape[cut.axis] *= cut.degree
        # Paddle 3.3.1 reads a view as if it were not one, where the parameter has no memory yet.
        parameter.set_value(cut.piece(_drawn(parameter, shape, address)).contiguous())
    else:
        _seed(address)
        parameter.initialize()


def _drawn(parameter: Tensor, shape: Sequence[int], address: list[int]) -> Tensor:
    """What the initializer of `parameter` gives a tensor of `shape`."""
    _seed(address)
    made = paddle.base.framework.EagerParamBase(shape, parameter.dtype)
    parameter._init_func(made, None)
    return made


def _seed(address: list[int]) -> None:
    """Makes what is drawn next a function of these numbers; Paddle's generator for the CPU has 32 bits of seed."""
    paddle.seed(int(np.random.SeedSequence(address).generate_state(1)[0]))
