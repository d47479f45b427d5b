"""The next token from its logits."""

import numpy as np

from ernie5.config.schema import GenerationConfig


def sample(logits: np.ndarray, config: GenerationConfig, rng: np.random.Generator) -> np.ndarray:
    """logits float32 [batch, vocab] -> int64 [batch]: greedy at temperature 0, else top-k, then top-p, then a draw."""
    if config.temperature == 0:
        return logits.argmax(-1)
    logits = logits.astype(np.float64) / config.temperature
    order = np.argsort(-logits, axis=-1, kind="stable")
    ranked = np.take_along_axis(logits, order, -1)
    if config.top_k:
        ranked[:, config.top_k :] = -np.inf
    weights = np.exp(ranked - ranked[:, :1])
    weights /= weights.sum(-1, keepdims=True)
    before = np.cumsum(weights, -1) - weights  # mass ranked above: the best token always stays
    weights[before >= config.top_p] = 0
    cumulative = np.cumsum(weights, -1)
    drawn = rng.random((len(logits), 1)) * cumulative[:, -1:]
    rank = (cumulative <= drawn).sum(-1).clip(max=logits.shape[-1] - 1)
    return np.take_along_axis(order, rank[:, None], -1)[:, 0]
