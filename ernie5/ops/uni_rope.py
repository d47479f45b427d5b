"""The turn of a rotary embedding (arXiv:2104.09864), by angles that all heads share."""

import paddle
from paddle.autograd import PyLayer

from ernie5.ops import backend


def uni_rope(states: paddle.Tensor, cos: paddle.Tensor, sin: paddle.Tensor) -> paddle.Tensor:
    """Turns pair j of each head, the dims (j, j + head_dim / 2), by its angle.

    states [batch, seq, heads, head_dim] of any float dtype; cos, sin float32 [batch or 1, seq, 1, head_dim / 2], which
    get no gradient. Computed in float32, returned in the input's dtype and shape.
    """
    if backend.takes("uni_rope", backend.FLOATS, states):
        return backend.call("uni_rope", [states, cos.detach(), sin.detach()])[0]
    return _Turn.apply(states, cos, sin)


class _Turn(PyLayer):
    """The gradient of a turn is the turn back. By hand it takes a third of autograd's time."""

    @staticmethod
    def forward(ctx, states, cos, sin):
        ctx.save_for_backward(cos, sin)
        return _turn(states, cos, sin)

    @staticmethod
    def backward(ctx, grad):
        cos, sin = ctx.saved_tensor()
        return _turn(grad, cos, -sin), None, None


def _turn(states, cos, sin) -> paddle.Tensor:
    shape = [*states.shape[:3], states.shape[3] // 2]
    first, second = states[..., : shape[3]].astype("float32"), states[..., shape[3] :].astype("float32")
    cos, sin = cos.expand(shape), sin.expand(shape)  # a product that broadcasts over heads is ten times slower on CPU
    turned = paddle.concat([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(states.dtype)
