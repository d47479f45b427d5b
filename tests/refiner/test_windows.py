import dataclasses
from unittest.mock import patch

import numpy as np
import pytest
from paddle import nn

from ernie5.config.refiner import RefinerConfig
from ernie5.errors import UserError
from ernie5.refiner.refiner import Refiner
from ernie5.refiner.windows import LEAST, mixed, plan, reach, spans


@pytest.fixture
def without_norms(refiner: Refiner) -> Refiner:
    """Its convolutions alone decide how far a pixel is seen; small weights keep values in range."""
    for layer in refiner.sublayers():
        for name, child in list(layer.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(layer, name, nn.Identity())
    for parameter in refiner.parameters():
        parameter.set_value(parameter * 0.3)
    return refiner


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("length, size, context, ramp", [(7, 8, 2, 2), (100, 30, 6, 4), (31, 30, 6, 4), (20, 7, 3, 0)])
def test_weights_of_an_axis_sum_to_1_and_are_0_next_to_cuts(length: int, size: int, context: int, ramp: int):
    total = np.zeros(length)
    for span in spans(length, size, context, ramp):
        total[span.where] += span.weight
        assert len(span.weight) <= size
        if span.where.start > 0:
            assert (span.weight[:context] == 0).all()
        if span.where.stop < length:
            assert (span.weight[len(span.weight) - context :] == 0).all()
    np.testing.assert_allclose(total, 1, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 600, 904), (1, 40, 4000), (200, 32, 48), (30, 200, 304), (40, 128, 128)])
@pytest.mark.parametrize("channels", [(8,), (8, 8), (8, 8, 8, 8)])
def test_no_window_is_larger_than_the_limit_or_off_the_stride(shape, channels, config: RefinerConfig):
    config = dataclasses.replace(config, channels=channels)
    frames, rows, columns = plan(shape, config, 1 << 16)
    largest = [max(len(span.weight) for span in axis) for axis in (frames, rows, columns)]
    assert np.prod(largest) <= 1 << 16
    starts = {span.where.start % config.stride for span in [*rows, *columns]}
    assert starts == {0}
    assert len(frames) * len(rows) * len(columns) < 6 * np.prod(shape) / 2**16 * 4  # at most so much is seen twice


def test_what_is_within_the_limit_is_one_window(config: RefinerConfig):
    assert [len(axis) for axis in plan((4, 64, 64), config, 1 << 14)] == [1, 1, 1]


def test_windows_are_mixed_to_what_they_show(config: RefinerConfig):
    film = noise(9, 100, 120, 3).astype(np.float32)
    made = mixed(lambda where: film[where], plan(film.shape[:3], config, LEAST), film.shape)
    np.testing.assert_allclose(made, film, rtol=1e-5)


def test_reach_is_no_less_than_what_a_pixel_changes(without_norms: Refiner):
    frames, pixels = reach(without_norms.config)
    low = noise(9, 32, 32, 3)
    changed = low.copy()
    changed[4, 16, 16] ^= 128  # the bicubic filter spreads it over 2 low pixels, 4 refined ones
    differ = (without_norms.refine(low, 0.5, 1) != without_norms.refine(changed, 0.5, 1)).any(-1)
    where = np.argwhere(differ)
    assert np.abs(where[:, 0] - 4).max() <= frames
    assert np.abs(where[:, 1:] - 32.5).max() <= pixels + 4.5
    assert np.abs(where[:, 0] - 4).max() > 1 and np.abs(where[:, 1:] - 32.5).max() > 4.5


@pytest.mark.parametrize("method, num_steps", [("euler", 1), ("heun", 2)])
@pytest.mark.parametrize("shape", [(1, 90, 110, 3), (24, 20, 20, 3), (14, 24, 20, 3)])
def test_windows_change_nothing_but_the_norms(without_norms: Refiner, shape, method, num_steps):
    low = noise(*shape)
    whole = without_norms.refine(low, 0.5, num_steps, method)
    apart = without_norms.refine(low, 0.5, num_steps, method, max_pixels=LEAST)
    assert len(np.unique(whole)) > 100
    assert np.abs(whole.astype(int) - apart).max() <= 1  # floats that round to the other side


def test_norms_of_windows_change_little(refiner: Refiner):
    for parameter in refiner.parameters():
        parameter.set_value(parameter * 0.5)
    low = noise(1, 90, 110, 3)
    whole, apart = refiner.refine(low, 0.5, 1), refiner.refine(low, 0.5, 1, max_pixels=LEAST)
    changed = np.abs(whole.astype(float) - refiner.refine(low, 0.5, 1, seed=1)).mean()
    assert np.abs(whole.astype(float) - apart).mean() < 0.1 * changed


def test_network_sees_no_more_than_the_limit(refiner: Refiner):
    seen, network = [], refiner.network.forward

    def watched(noisy, *others):
        seen.append(np.prod(noisy.shape[:-1]))
        return network(noisy, *others)

    with patch.object(refiner.network, "forward", watched):
        refiner.refine(noise(14, 24, 20, 3), 0.5, 1, max_pixels=LEAST)
    assert max(seen) <= LEAST and len(seen) > 1


def test_a_limit_that_is_too_low_is_refused(refiner: Refiner, film: np.ndarray):
    with pytest.raises(UserError, match="max_pixels is 100: give at least 16384"):
        refiner.refine(film, 0.5, max_pixels=100)
