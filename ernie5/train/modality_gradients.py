"""How strongly each modality pulls at what all of them share: the norm of its gradient alone."""

from collections.abc import Mapping

import paddle

from ernie5.model.ernie5 import Ernie5ForCausalLM


def modality_gradient_norms(terms: Mapping[str, paddle.Tensor], model: Ernie5ForCausalLM) -> dict[str, float]:
    """Of each term of the objective, a scalar, over the last layer that all modalities pass (as arXiv:1711.02257 §3).

    That is the one behind which the first level of audio is read, or the last one of a model without. The gradients
    of the parameters stay as they are. The graph of the terms is used up.
    """
    top = model.config.audio.num_codebooks - 1 if model.config.audio is not None else 0
    shared = [p for p in model.decoder.layers[-1 - top].parameters() if not p.stop_gradient]
    norms = {}
    for i, (name, term) in enumerate(terms.items()):
        gradients = paddle.grad(term, shared, retain_graph=i + 1 < len(terms), allow_unused=True)
        squares = [gradient.astype("float32").square().sum() for gradient in gradients if gradient is not None]
        norms[name] = float(sum(squares).sqrt()) if squares else 0.0
    return norms
