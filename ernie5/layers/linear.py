"""A linear map whose weights start from the model's initializer range."""

import paddle
from paddle import ParamAttr, nn

from ernie5.ops import linear as ops


class Linear(nn.Linear):
    """nn.Linear, whose product may be done in bfloat16 (`ops.bf16_products`)."""

    def forward(self, states: paddle.Tensor) -> paddle.Tensor:
        return ops.linear(states, self.weight, self.bias)


def linear(in_features: int, out_features: int, initializer_range: float, bias: bool = False) -> Linear:
    """weight [in, out] from N(0, initializer_range); the bias, if any, starts at 0."""
    weight = ParamAttr(initializer=nn.initializer.Normal(0.0, initializer_range))
    return Linear(in_features, out_features, weight_attr=weight, bias_attr=None if bias else False)
