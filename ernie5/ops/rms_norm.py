"""Root-mean-square normalisation (arXiv:1910.07467)."""

import paddle
from paddle.autograd import PyLayer

from ernie5.ops import backend


def rms_norm(hidden_states: paddle.Tensor, weight: paddle.Tensor, epsilon: float) -> paddle.Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dim.

    hidden_states [..., hidden] of any float dtype, weight [hidden]; computed in float32, returned in the input's dtype.
    """
    rows = hidden_states.reshape([-1, hidden_states.shape[-1]])
    if backend.takes("rms_norm", backend.FLOATS, rows, weight):
        normalized = backend.call("rms_norm", [rows, weight], epsilon)[0]
    else:
        normalized = _RMSNorm.apply(rows, weight, epsilon)
    return normalized.reshape(hidden_states.shape)


def add_rms_norm(
    hidden_states: paddle.Tensor, residual: paddle.Tensor, weight: paddle.Tensor, epsilon: float
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """The norm of a sum, and the sum: a residual stream that takes in a layer's output before the next layer.

    hidden_states and residual [..., hidden] of one dtype -> both [..., hidden] of that dtype.
    """
    shape = hidden_states.shape
    if backend.takes("add_rms_norm", backend.FLOATS, hidden_states, residual, weight):
        rows, others = hidden_states.reshape([-1, shape[-1]]), residual.reshape([-1, shape[-1]])
        normalized, _, total = backend.call("add_rms_norm", [rows, others, weight], epsilon)
        return normalized.reshape(shape), total.reshape(shape)
    total = hidden_states + residual
    return rms_norm(total, weight, epsilon), total


class _RMSNorm(PyLayer):
    """The backward pass by hand: Paddle's own for a broadcast weight costs more than the rest of the layer together.

    With n = x * r, r = 1 / sqrt(mean(x^2) + epsilon) and g = dy * weight:
    dx = r * (g - n * mean(g * n)), dweight = sum over rows of dy * n. Row sums are products with ones, run as GEMM.
    """

    @staticmethod
    def forward(ctx, rows, weight, epsilon):
        ctx.dtype = rows.dtype
        ctx.rows_frozen, ctx.weight_frozen = rows.stop_gradient, weight.stop_gradient
        rows = rows.astype("float32")
        mean_square = paddle.matmul(rows * rows, _ones(rows.shape[1], 1)) * (1.0 / rows.shape[1])
        inverse = paddle.rsqrt(mean_square + epsilon)  # [rows, 1]
        normalized = rows * inverse
        ctx.save_for_backward(normalized, inverse, weight)
        return (normalized * weight.astype("float32")).astype(ctx.dtype)

    @staticmethod
    def backward(ctx, grad):
        normalized, inverse, weight = ctx.saved_tensor()
        num_rows, hidden = normalized.shape
        product = grad.astype("float32") * normalized
        grad_weight = paddle.matmul(_ones(1, num_rows), product).reshape([hidden])
        scale = weight.astype("float32")
        mean = paddle.matmul(product, scale.reshape([hidden, 1])) * (1.0 / hidden)  # mean of g * n, [rows, 1]
        grad_rows = (grad.astype("float32") * scale - normalized * mean) * inverse
        # Paddle refuses a gradient for an input that takes none, as when all but adapters is frozen.
        return (
            None if ctx.rows_frozen else grad_rows.astype(ctx.dtype),
            None if ctx.weight_frozen else grad_weight.astype(weight.dtype),
        )


def _ones(rows: int, columns: int) -> paddle.Tensor:
    return paddle.ones([rows, columns], "float32")
