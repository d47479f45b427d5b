"""The logits of a head over a large vocabulary."""

import paddle

from ernie5.ops import backend

DTYPES = backend.Dtypes(backend.CPU_FLOATS)  # on a GPU it is a product like others
FEW_ROWS = 16  # up to here reading the weight takes all the time, and the compiled operator reads it faster


def head_logits(hidden_states: paddle.Tensor, weight: paddle.Tensor, hidden_first: bool = False) -> paddle.Tensor:
    """hidden_states [..., hidden] weight^T -> [..., vocab].

    weight [vocab, hidden], as an embedding's, or with `hidden_first` [hidden, vocab], as a linear layer's.
    """
    *shape, hidden = hidden_states.shape
    few = 0 < hidden_states.size <= FEW_ROWS * hidden
    if few and not paddle.is_grad_enabled() and backend.takes("head_logits", DTYPES, hidden_states, weight):
        logits = backend.call("head_logits", [hidden_states.reshape([-1, hidden]), weight], hidden_first)[0]
        return logits.reshape([*shape, logits.shape[1]])
    return paddle.matmul(hidden_states, weight, transpose_y=not hidden_first)
