"""Weights as int8 with a scale for each output, which programs multiply out when they are loaded."""

import paddle
from paddle import nn

from ernie5.layers.router import Router
from ernie5.model.ernie5 import Ernie5ForCausalLM


def quantise(model: Ernie5ForCausalLM) -> None:
    """Rounds every matrix but those of the routers, whose scores decide who is asked: w = scale * int8, |int8| <= 127.

    A scale is the largest weight that goes into an output over 127; of embeddings, that of a word. What reads a matrix
    sees float32. Paddle Inference folds the products of constants when it loads a program: the files are a quarter as
    large, and what runs is as fast, and takes as much memory, as in float32.
    """
    for layer in model.sublayers():
        if layer.sublayers() or isinstance(layer, Router):
            continue
        for name, weight in list(layer.named_parameters(include_sublayers=False)):
            if weight.ndim >= 2:
                _replace(layer, name, weight, axis=-1 if isinstance(layer, nn.Embedding) else -2)


def _replace(layer: nn.Layer, name: str, weight: paddle.Tensor, axis: int) -> None:
    """By two buffers, and a property of the name."""
    delattr(layer, name)
    scale = weight.abs().max(axis=axis, keepdim=True).clip(min=1e-30) / 127
    layer.register_buffer(f"{name}_int8", (weight / scale).round().astype("int8"))
    layer.register_buffer(f"{name}_scale", scale)
    kind = type(layer)
    product = property(lambda self: getattr(self, f"{name}_int8").astype("float32") * getattr(self, f"{name}_scale"))
    layer.__class__ = type(kind.__name__, (kind,), {name: product, "__module__": kind.__module__})
