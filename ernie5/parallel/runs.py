"""Even shares of tensors: everybody owns a stretch of a line of them, so that only those at its ends are split."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import paddle
from paddle import Tensor
from paddle.base.framework import EagerParamBase


class Run(NamedTuple):
    """Elements `start` to `stop` of a tensor of `shape`, in the order of its memory."""

    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    def of(self, array: np.ndarray) -> np.ndarray:
        """They, [size]: a view where the array lies in one piece, else a copy that reads no more than their rows."""
        row = max(array[:1].size, 1)
        first = self.start // row
        rows = array[first : -(-self.stop // row)].reshape(-1)
        return rows[self.start - first * row : self.stop - first * row]


class Share(NamedTuple):
    """Elements `start` to `stop` of tensor `index` are the part of `owner`."""

    index: int
    start: int
    stop: int
    owner: int


def shares(sizes: Sequence[int], owners: int) -> list[Share]:
    """Of tensors of these sizes, in a line that is cut where everybody has as many elements, or one more.

    The planner counts the same (`planning/memory.py`).
    """
    total, found, begin, owner = sum(sizes), [], 0, 0
    for index, size in enumerate(sizes):
        at = begin
        while at < begin + size:
            end = total * (owner + 1) // owners  # of what the owner has
            stop = min(end, begin + size)
            if stop > at:
                found.append(Share(index, at - begin, stop - begin, owner))
            at = stop
            owner += stop == end
        begin += size
    return found


@paddle.no_grad()
def elements(tensor: Tensor, start: int, stop: int) -> Tensor:
    """These of a tensor that lies in one piece, [stop - start], in its own memory."""
    return tensor.detach().reshape([-1])._slice(start, stop)


def run_parameter(parameter: Tensor, run: Run) -> EagerParamBase:
    """A parameter in the memory of another, with its learning rate: an optimizer that steps it steps the run."""
    view = elements(parameter, run.start, run.stop)
    found = EagerParamBase(shape=[run.size], dtype=parameter.dtype, name=f"{parameter.name}_run")
    view._share_buffer_to(found)
    assert lies_in(found, parameter, run)
    found.optimize_attr = parameter.optimize_attr
    return found


def lies_in(stepped: Tensor, parameter: Tensor, run: Run) -> bool:
    """Whether what a run parameter has for memory is still that of the parameter."""
    return stepped.data_ptr() == parameter.data_ptr() + run.start * parameter.element_size()
