"""The next token, the next code of a sound, and the next bits of a picture, from their logits."""

from collections.abc import Sequence

import numpy as np

from ernie5.config.schema import AudioSamplingConfig, GenerationConfig, VisualSamplingConfig
from ernie5.inference.request import Penalties


def sample(logits: np.ndarray, config: GenerationConfig | AudioSamplingConfig, rng: np.random.Generator) -> np.ndarray:
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


def penalised(logits: np.ndarray, penalties: Penalties, prompt_ids: Sequence[int], ids: Sequence[int]) -> np.ndarray:
    """Logits float32 [vocab] of the next word behind a prompt and an answer so far, made less for words that they have.

    Repetition counts the prompt too (arXiv:1909.05858 §4.1); presence and frequency count the answer alone.
    """
    if penalties == Penalties():
        return logits
    logits = logits.copy()
    seen = np.unique(np.concatenate([np.asarray(prompt_ids, np.int64), np.asarray(ids, np.int64)]))
    strength = np.float32(penalties.repetition)
    logits[seen] = np.where(logits[seen] > 0, logits[seen] / strength, logits[seen] * strength)
    words, counts = np.unique(np.asarray(ids, np.int64), return_counts=True)
    logits[words] -= np.float32(penalties.presence) + np.float32(penalties.frequency) * counts.astype(np.float32)
    return logits


def sample_bits(logits: np.ndarray, config: VisualSamplingConfig, rng: np.random.Generator) -> np.ndarray:
    """Log-odds of 1, float32 [...] -> float32 [...] of 0 and 1: the likelier value at temperature 0, else a draw.

    A bit whose likelier value has a probability of at least top_p takes it: the smallest set of values that holds
    top_p is then that one alone.
    """
    if config.temperature == 0:
        return (logits > 0).astype(np.float32)
    odds = logits.astype(np.float64) / config.temperature
    one = 1 / (1 + np.exp(-odds.clip(-500, 500)))
    drawn = rng.random(logits.shape) < one
    return np.where(np.maximum(one, 1 - one) >= config.top_p, odds > 0, drawn).astype(np.float32)


def is_guided(config: VisualSamplingConfig | AudioSamplingConfig) -> bool:
    """Whether the unconditional branch has any effect."""
    if isinstance(config, AudioSamplingConfig):
        return config.guidance != 1.0
    return (config.guidance_start, config.guidance_end) != (1.0, 1.0)


def guided(logits: np.ndarray, scale: int, num_scales: int, config: VisualSamplingConfig) -> np.ndarray:
    """Classifier-free guidance (arXiv:2207.12598): l_u + g (l_c - l_u), g linear from the first scale to the last.

    logits [2 n, ...], the conditional half before the unconditional one -> [n, ...].
    """
    share = scale / max(num_scales - 1, 1)
    return moved(logits, config.guidance_start + (config.guidance_end - config.guidance_start) * share)


def moved(logits: np.ndarray, strength: float) -> np.ndarray:
    """l_u + strength (l_c - l_u): logits [2 n, ...], the conditional half before the unconditional one -> [n, ...]."""
    conditional, unconditional = np.split(logits, 2)
    return unconditional + np.float32(strength) * (conditional - unconditional)
