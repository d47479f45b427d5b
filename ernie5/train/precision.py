"""Where and in which precision a run computes."""

import paddle
from paddle import nn

from ernie5.config.schema import TrainConfig
from ernie5.errors import UserError
from ernie5.layers.experts import Experts
from ernie5.model.ernie5 import Ernie5ForCausalLM


def set_device(config: TrainConfig) -> str:
    """Takes the configured device and returns the precision to train in, "float32" or "bfloat16"."""
    has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if config.device == "gpu" and not has_gpu:
        raise UserError("train.device is gpu, but this Paddle sees none: install paddlepaddle-gpu, or set it to cpu")
    device = "gpu" if has_gpu and config.device != "cpu" else "cpu"
    paddle.set_device(device)
    if config.precision == "bfloat16" and device == "cpu":
        raise UserError(
            "train.precision is bfloat16, but Paddle has no bfloat16 product on the CPU: set float32 or auto"
        )
    if config.precision != "auto":
        return config.precision
    return "bfloat16" if device == "gpu" and paddle.amp.is_bfloat16_supported() else "float32"


def cast_parameters(model: Ernie5ForCausalLM, precision: str) -> None:
    """Stores the large matrices in `precision`; the router and the norms stay float32 (report §5.1).

    The optimizer then keeps float32 master weights of what is narrower. No autocast: each layer says where it computes
    in float32.
    """
    if precision == "float32":
        return
    for layer in model.sublayers():
        if isinstance(layer, nn.Linear | nn.Embedding | Experts):
            layer.to(dtype=precision)
