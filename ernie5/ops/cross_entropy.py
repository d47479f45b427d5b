"""The cross-entropy of a head over a large vocabulary."""

import paddle
import paddle.nn.functional as F

from ernie5.ops import backend


def linear_cross_entropy(
    hidden_states: paddle.Tensor,
    weight: paddle.Tensor,
    labels: paddle.Tensor,
    row_weights: paddle.Tensor,
    ignore_index: int,
    hidden_first: bool = False,
) -> paddle.Tensor:
    """sum of row_weights * negative log-likelihood of the labels, in nats, a scalar (float32, or float64 of float64).

    hidden_states [rows, hidden]; weight [vocab, hidden], as an embedding's, or with `hidden_first` [hidden, vocab], as
    a linear layer's; labels int64 [rows], ignore_index where nothing is predicted; row_weights float32 [rows], which
    get no gradient. The logits are hidden_states weight^T; compiled, they are made some rows at a time and not kept.
    """
    if backend.takes("linear_cross_entropy", backend.FLOATS, hidden_states, weight):
        wanted = [paddle.is_grad_enabled() and not tensor.stop_gradient for tensor in (hidden_states, weight)]
        inputs = [hidden_states, weight, labels, row_weights.detach()]
        return backend.call("linear_cross_entropy", inputs, hidden_first, *wanted, ignore_index)[0]
    logits = paddle.matmul(hidden_states, weight, transpose_y=not hidden_first)
    if logits.dtype != paddle.float64:
        logits = logits.astype("float32")
    losses = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    return (losses.flatten() * row_weights.detach().astype(losses.dtype)).sum()
