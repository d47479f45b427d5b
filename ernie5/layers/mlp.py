"""The dense SwiGLU feed-forward layer."""

import paddle
from paddle import nn

from ernie5.layers.linear import linear
from ernie5.ops.swiglu import swiglu


class GatedMLP(nn.Layer):
    """down(silu(gate(x)) * up(x)), hidden_states [..., hidden] -> same shape (arXiv:2002.05202 eq. 6)."""

    def __init__(self, hidden_size: int, intermediate_size: int, initializer_range: float):
        super().__init__()
        self.gate_proj = linear(hidden_size, intermediate_size, initializer_range)
        self.up_proj = linear(hidden_size, intermediate_size, initializer_range)
        self.down_proj = linear(intermediate_size, hidden_size, initializer_range)

    def forward(self, hidden_states: paddle.Tensor) -> paddle.Tensor:
        return self.down_proj(swiglu(self.gate_proj(hidden_states), self.up_proj(hidden_states)))
