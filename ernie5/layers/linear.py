"""A linear map whose weights start from the model's initializer range."""

from paddle import ParamAttr, nn


def linear(in_features: int, out_features: int, initializer_range: float, bias: bool = False) -> nn.Linear:
    """nn.Linear, weight [in, out] from N(0, initializer_range); the bias, if any, starts at 0."""
    weight = ParamAttr(initializer=nn.initializer.Normal(0.0, initializer_range))
    return nn.Linear(in_features, out_features, weight_attr=weight, bias_attr=None if bias else False)
