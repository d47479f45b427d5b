"""Takes out of a whole model what another process has."""

import paddle
from paddle import nn

from ernie5.parallel.initial import is_drawn, like
from ernie5.parallel.pieces import Cut


@paddle.no_grad()
def cut_parameter(layer: nn.Layer, name: str, cut: Cut) -> None:
    """Leaves a layer its piece of a parameter, under the same name; one without values stays without."""
    whole = getattr(layer, name)
    shape = list(whole.shape)
    shape[cut.axis] //= cut.degree
    piece = like(whole, layer, shape)
    if is_drawn(whole):
        piece.set_value(cut.piece(whole).contiguous())  # as in `initial.py`
    setattr(layer, name, piece)


class Elsewhere(nn.Layer):
    """In the place of a layer that another process has: its name stays, its parameters go."""

    def forward(self, *_: object) -> None:
        raise AssertionError("this layer is on another process")
