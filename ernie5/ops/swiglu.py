"""The gate of a SwiGLU layer (arXiv:2002.05202)."""

import paddle
import paddle.nn.functional as F

from ernie5.ops import backend


def swiglu(gate: paddle.Tensor, up: paddle.Tensor | None = None) -> paddle.Tensor:
    """silu(gate) * up, computed in float32 or wider, returned in the input's dtype.

    gate and up [..., ffn] -> [..., ffn]; or gate alone, [..., 2 * ffn], which holds both, the gate first.
    """
    shape = gate.shape
    if up is None and backend.takes("swiglu_packed", backend.FLOATS, gate):
        gated = backend.call("swiglu_packed", [gate.reshape([-1, shape[-1]])])[0]
        return gated.reshape([*shape[:-1], shape[-1] // 2])
    if up is not None and backend.takes("swiglu", backend.FLOATS, gate, up):
        return backend.call("swiglu", [gate.reshape([-1, shape[-1]]), up.reshape([-1, shape[-1]])])[0].reshape(shape)
    return F.swiglu(gate, up)
