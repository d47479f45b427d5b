"""Takes out of a whole model what another process has."""

import paddle
from paddle import nn

from ernie5.parallel.pieces import Cut


@paddle.no_grad()
def cut_parameter(layer: nn.Layer, name: str, cut: Cut) -> None:
    """Leaves a layer its piece of a parameter, under the same name."""
    whole = getattr(layer, name)
    piece = paddle.split(whole, cut.degree, axis=cut.axis)[cut.place]
    parameter = layer.create_parameter(
        piece.shape, dtype=whole.dtype, default_initializer=nn.initializer.Constant(0), is_bias=whole.ndim == 1
    )
    parameter.set_value(piece)
    setattr(layer, name, parameter)


class Elsewhere(nn.Layer):
    """In the place of a layer that another process has: its name stays, its parameters go."""

    def forward(self, *_: object) -> None:
        raise AssertionError("this layer is on another process")
