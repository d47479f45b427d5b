"""AdamW with decoupled weight decay, and clipping by the global norm."""

import math
from collections.abc import Callable, Iterable, Mapping

import paddle
from paddle import nn

from ernie5.config.schema import OptimizerConfig
from ernie5.layers.router import Router
from ernie5.ops.adamw import AdamW, scale_all, sums_of_squares

DECAYED_NDIM = 2  # matrices, embeddings and stacked experts are decayed; norm weights and biases are not


def build_optimizer(
    model: nn.Layer, config: OptimizerConfig, stepped: Mapping[str, paddle.Tensor] | None = None
) -> AdamW:
    """Of all parameters, or of what is `stepped` by their names: parameters, or runs of them that have a parameter's
    decay and learning rate. The rate is set before every step. What is in a half type gets float32 master weights."""
    of_model = dict(model.named_parameters())
    stepped = of_model if stepped is None else stepped
    parameters = list(stepped.values())
    for layer in model.sublayers():
        if isinstance(layer, Router):
            layer.weight.optimize_attr["learning_rate"] = config.router_lr_scale
    decayed = {one.name for name, one in stepped.items() if of_model[name].ndim >= DECAYED_NDIM}
    return AdamW(
        learning_rate=0.0,
        beta1=config.beta1,
        beta2=config.beta2,
        epsilon=config.epsilon,
        weight_decay=config.weight_decay,
        parameters=parameters,
        apply_decay_param_fun=decayed.__contains__,
        multi_precision=any(parameter.dtype != paddle.float32 for parameter in parameters),
    )


@paddle.no_grad()
def clip_grad_norm(
    parameters: Iterable[paddle.Tensor],
    clip_norm: float,
    counted: Iterable[paddle.Tensor] | None = None,
    summed: Callable[[float], float] = float,
) -> float:
    """Scales all gradients so that their global norm is at most clip_norm (0: leaves them) and returns the norm before.

    The gradients are touched only when they are too large. A norm that is not finite is returned as it is. Of several
    processes that have the parameters between them each counts the squares of those `counted`; `summed` adds them up.
    """
    parameters = list(parameters)
    counted = [one.grad for one in (parameters if counted is None else counted) if one.grad is not None]
    squares = summed(math.fsum(sums_of_squares(counted)))
    norm = math.sqrt(squares) if math.isfinite(squares) else math.nan
    if clip_norm and norm > clip_norm:
        scale_all([one.grad for one in parameters if one.grad is not None], clip_norm / norm)
    return norm


def first_not_finite(parameters: Mapping[str, paddle.Tensor]) -> str | None:
    """The name of the first parameter whose gradient holds a NaN or an infinity."""
    for name, parameter in parameters.items():
        if parameter.grad is not None and not math.isfinite(sums_of_squares([parameter.grad])[0]):
            return name
    return None
