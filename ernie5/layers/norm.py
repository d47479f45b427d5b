"""RMSNorm."""

import paddle
from paddle import nn

from ernie5.ops.rms_norm import add_rms_norm, rms_norm


class RMSNorm(nn.Layer):
    """x / rms(x) * weight over the last dim, computed in float32 (arXiv:1910.07467 eq. 4)."""

    def __init__(self, hidden_size: int, epsilon: float):
        super().__init__()
        self.weight = self.create_parameter([hidden_size], default_initializer=nn.initializer.Constant(1.0))
        self.epsilon = epsilon

    def forward(self, hidden_states: paddle.Tensor) -> paddle.Tensor:
        return rms_norm(hidden_states, self.weight, self.epsilon)

    def of_sum(self, added: paddle.Tensor, residual: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The norm of added + residual, and that sum."""
        return add_rms_norm(added, residual, self.weight, self.epsilon)
