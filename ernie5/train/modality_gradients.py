"""How strongly each modality pulls at what all of them share: the norm of its gradient alone."""

from collections.abc import Callable, Mapping

import paddle

from ernie5.model.ernie5 import Ernie5ForCausalLM


def modality_gradient_norms(
    compute: Callable[[], Mapping[str, paddle.Tensor]], model: Ernie5ForCausalLM
) -> dict[str, float]:
    """Of each term of the objective, a scalar, over the last layer that all modalities pass (as arXiv:1711.02257 §3).

    That is the one behind which the first level of audio is read, or the last one of a model without. `compute` gives
    the terms, anew and the same at each call. No parameter holds a gradient before, and none does after.

    Each term takes a forward and a backward pass of its own: on our PyLayers Paddle 3.3 crashes in a second pass over
    one graph (`retain_graph`), and refuses gradients of some parameters alone (`paddle.grad`).
    """
    top = model.config.audio.num_codebooks - 1 if model.config.audio is not None else 0
    shared = model.decoder.layers[-1 - top].parameters()
    parameters = model.parameters()
    assert all(parameter.grad is None for parameter in parameters), "a step's gradients would be lost"
    norms: dict[str, float] = {}
    terms = compute()
    for name in list(terms):
        terms = terms or compute()
        terms[name].backward()
        terms = {}  # the rest of the graph goes with them
        squares = [p.grad.astype("float32").square().sum() for p in shared if p.grad is not None]
        norms[name] = float(sum(squares).sqrt()) if squares else 0.0
        for parameter in parameters:
            parameter.grad = None  # clear_gradient would leave zeros, with which the optimizer decays what got none
    return norms
