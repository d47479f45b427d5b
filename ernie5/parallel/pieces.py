"""A tensor of the model as one process has it: whole, or one of several equal pieces along an axis."""

from typing import NamedTuple

import numpy as np


class Cut(NamedTuple):
    """This process has piece `place` of `degree` equal ones along `axis`."""

    axis: int
    place: int
    degree: int

    def piece(self, whole: np.ndarray) -> np.ndarray:
        """A view of this process's piece."""
        length = whole.shape[self.axis] // self.degree
        index = [slice(None)] * whole.ndim
        index[self.axis] = slice(self.place * length, (self.place + 1) * length)
        return whole[tuple(index)]
