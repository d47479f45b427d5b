"""A network without its weights: shapes, names and dtypes, for who has the values elsewhere or draws them later."""

from collections.abc import Callable
from typing import TypeVar

import paddle
from paddle import nn

M = TypeVar("M", bound=nn.Layer)


def undrawn(build: Callable[[], M]) -> M:
    """What `build` gives, its parameters without values and memory; buffers have theirs."""
    with paddle.utils.unique_name.guard(), paddle.LazyGuard():
        return build()
