"""The cross-entropy of bits that are predicted apart from each other (arXiv:2412.04431)."""

import paddle
import paddle.nn.functional as F

from ernie5.ops import backend


def bitwise_cross_entropy(logits: paddle.Tensor, targets: paddle.Tensor, row_weights: paddle.Tensor) -> paddle.Tensor:
    """sum of row_weights * mean cross-entropy of a row's bits, in nats a bit, a float scalar.

    logits [rows, at least bits], log-odds of 1, of which the first `bits` count; targets float32 [rows, bits] and
    row_weights float32 [rows], which get no gradient. The result is float32, or float64 of float64.
    """
    dtype = paddle.float64 if logits.dtype == paddle.float64 else paddle.float32
    targets, row_weights = targets.detach().astype(dtype), row_weights.detach()
    if backend.takes("bitwise_cross_entropy", backend.FLOATS, logits):
        wants_gradient = paddle.is_grad_enabled() and not logits.stop_gradient
        return backend.call("bitwise_cross_entropy", [logits, targets, row_weights], wants_gradient)[0]
    logits = logits[:, : targets.shape[-1]].astype(dtype)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)
    return (losses * row_weights.astype(dtype)).sum()
