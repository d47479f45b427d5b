"""Uni-RoPE against one-dimensional RoPE on complex numbers, and its properties over (t, h, w)."""

import numpy as np
import paddle
import pytest

from ernie5.config.schema import AttentionConfig
from ernie5.layers.rope import H, T, W, pair_axes, rotate, rotation
from tests.tolerances import tolerance

CONFIG = AttentionConfig(num_attention_heads=2, num_key_value_heads=1, head_dim=32, rope_theta=10_000.0)


def turned(states: np.ndarray, positions: np.ndarray, config: AttentionConfig = CONFIG) -> np.ndarray:
    """states [batch, seq, heads, head_dim] turned to positions [batch, seq, 3]."""
    by = rotation(paddle.to_tensor(positions.astype(np.float32)), config)
    return rotate(paddle.to_tensor(states.astype(np.float32)), by).numpy()


def rope_1d(states: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Pair j as a complex number x_j + i x_{j + d/2}, times exp(i position theta^(-2j/d)) (arXiv:2104.09864 eq. 14)."""
    half = states.shape[-1] // 2
    pairs = states[..., :half] + 1j * states[..., half:]
    pairs = pairs * np.exp(1j * positions[..., None, None] * theta ** (-2 * np.arange(half) / (2 * half)))
    return np.concatenate([pairs.real, pairs.imag], -1)


def test_text_positions_turn_as_one_dimensional_rope():
    states, positions = np.random.normal(size=[2, 50, 2, 32]), np.tile(np.arange(50.0), (2, 1))
    result = turned(states, np.repeat(positions[..., None], 3, -1))
    # An angle of 50 in float32 is off by 2e-6.
    np.testing.assert_allclose(result, rope_1d(states, positions, 10_000.0), rtol=0, atol=2e-5)


def test_position_zero_turns_nothing():
    states = np.random.normal(size=[1, 3, 2, 32]).astype(np.float32)
    np.testing.assert_array_equal(turned(states, np.zeros([1, 3, 3])), states)


def test_dot_products_depend_on_differences_of_positions():
    query, key = np.random.normal(size=[2, 1, 1, 1, 32])
    here, there, shift = np.array([3.0, 1.0, 4.0]), np.array([1.0, 5.0, 9.0]), np.array([2.0, 6.0, 5.0])

    def score(at: np.ndarray, other: np.ndarray) -> float:
        return float((turned(query, at[None, None]) * turned(key, other[None, None])).sum())

    assert score(here, there) == pytest.approx(score(here + shift, there + shift), abs=2e-5)
    assert abs(score(here, there) - score(here + shift, there)) > 0.1


@pytest.mark.parametrize("axis", [T, H, W])
def test_each_axis_turns_its_own_pairs_alone(axis):
    states = np.random.normal(size=[1, 1, 1, 32])
    positions = np.zeros([1, 1, 3])
    positions[..., axis] = 1.0
    moved = np.abs(turned(states, positions) - states)[0, 0, 0] > 1e-6
    pairs = pair_axes(32, CONFIG.rope_temporal_fraction) == axis
    np.testing.assert_array_equal(moved, np.tile(pairs, 2))


def test_axes_of_128_dims_split_22_22_20_with_time_lowest():
    axes = pair_axes(
        128, AttentionConfig(num_attention_heads=1, num_key_value_heads=1, head_dim=128).rope_temporal_fraction
    )
    assert [(axes == axis).sum() for axis in (H, W, T)] == [22, 22, 20]
    assert axes[:4].tolist() == [H, W, H, W] and (axes[44:] == T).all()


@pytest.mark.parametrize("head_dim", [6, 8, 10, 16, 32, 64])
def test_every_axis_has_a_pair_in_every_head_size(head_dim):
    axes = pair_axes(head_dim, CONFIG.rope_temporal_fraction)
    assert len(axes) == head_dim // 2 and set(axes.tolist()) == {T, H, W}
    assert (axes == H).sum() == (axes == W).sum()


def test_fractional_positions_stand_between_whole_ones():
    """Centre-aligned scales: two half steps are one step."""
    states = np.random.normal(size=[1, 1, 2, 32])
    half, whole = np.full([1, 1, 3], 0.5), np.full([1, 1, 3], 1.0)
    np.testing.assert_allclose(turned(turned(states, half), half), turned(states, whole), **tolerance("float32"))


def test_rotation_keeps_a_low_precision_dtype_and_turns_in_float32():
    states = np.random.normal(size=[1, 40, 2, 32]).astype(np.float16)
    positions = np.repeat(np.arange(40.0)[None, :, None], 3, -1)
    result = rotate(paddle.to_tensor(states), rotation(paddle.to_tensor(positions.astype(np.float32)), CONFIG))
    assert result.dtype == paddle.float16
    exact = turned(states, positions).astype(np.float16)
    np.testing.assert_array_equal(result.numpy(), exact)
