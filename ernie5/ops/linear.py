"""A linear map, in bfloat16 inside where the run asks for it."""

import paddle

from ernie5.ops import backend


def linear(states: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
    """states [..., in] weight + bias -> [..., out]; weight [in, out], bias [out].

    With `ops.bf16_products`, factors of float32 are rounded to bfloat16 and their products summed in float32, here and
    in both gradients.
    """
    if backend.bf16_products() and states.dtype == weight.dtype == paddle.float32:
        rows = states.reshape([-1, states.shape[-1]])
        output = backend.call("linear", [rows, weight])[0].reshape([*states.shape[:-1], weight.shape[1]])
    else:
        output = paddle.matmul(states, weight)
    return output if bias is None else output + bias
