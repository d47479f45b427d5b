"""Uni-RoPE: one rotary embedding over (t, h, w) for every token of every modality (report §2.2.3)."""

import functools
from typing import NamedTuple

import numpy as np
import paddle

from ernie5.config.schema import AttentionConfig
from ernie5.ops.uni_rope import uni_rope

T, H, W = 0, 1, 2  # columns of position_ids


class Rotation(NamedTuple):
    """cos and sin of each pair's angle, float32 [batch, seq, 1, head_dim / 2], shared by all heads and layers."""

    cos: paddle.Tensor
    sin: paddle.Tensor


def pair_axes(head_dim: int, temporal_fraction: float) -> np.ndarray:
    """Which axis turns each frequency pair, int64 [head_dim / 2], highest frequency first.

    The report does not publish the split. As in ERNIE 4.5 VL, the highest frequencies alternate h, w and the lowest,
    a share of `temporal_fraction` (20 of 64 pairs there), turn with t. The spatial pairs are an even number.
    """
    num_pairs = head_dim // 2
    num_spatial = 2 * round(num_pairs * (1.0 - temporal_fraction) / 2)
    return np.array([H, W] * (num_spatial // 2) + [T] * (num_pairs - num_spatial), dtype=np.int64)


def rotation(position_ids: paddle.Tensor, config: AttentionConfig) -> Rotation:
    """position_ids float32 [batch, seq, 3] -> Rotation. With t = h = w this is exactly one-dimensional RoPE."""
    axes, inverse_frequency = map(paddle.to_tensor, _frequencies(config))
    angles = paddle.index_select(position_ids, axes, axis=-1) * inverse_frequency
    return Rotation(angles.cos().unsqueeze(2), angles.sin().unsqueeze(2))


def rotation_of_few(positions: np.ndarray, config: AttentionConfig) -> Rotation:
    """As `rotation`, in NumPy, which for the few tokens of a decoding step takes a third of the time."""
    axes, inverse_frequency = _frequencies(config)
    angles = positions[:, :, None, axes] * inverse_frequency
    return Rotation(paddle.to_tensor(np.cos(angles)), paddle.to_tensor(np.sin(angles)))


@functools.cache
def _frequencies(config: AttentionConfig) -> tuple[np.ndarray, np.ndarray]:
    """Axis int64 and inverse frequency float32 of each pair, [head_dim / 2]."""
    num_pairs = config.head_dim // 2
    inverse_frequency = config.rope_theta ** (-np.arange(num_pairs, dtype=np.float64) / num_pairs)
    return pair_axes(config.head_dim, config.rope_temporal_fraction), inverse_frequency.astype(np.float32)


def rotate(states: paddle.Tensor, by: Rotation) -> paddle.Tensor:
    """Turns pair j of each head, the dims (j, j + head_dim / 2), by its angle. states [batch, seq, heads, head_dim]."""
    return uni_rope(states, by.cos, by.sin)
