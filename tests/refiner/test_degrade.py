import dataclasses

import numpy as np
import pytest

from ernie5.config.refiner import DegradationConfig
from ernie5.refiner.degrade import degrade
from ernie5.refiner.pixels import area_mean

NONE = DegradationConfig(blur=0.0, block_share=0.0, noise=0.0, jpeg_quality=0)
FLAT = np.full((2, 32, 32, 3), 128, np.uint8)


def run(config: DegradationConfig, strength: float, original: np.ndarray = FLAT, seed: int = 0) -> np.ndarray:
    return degrade(original, 2, strength, config, np.random.default_rng(seed))


def test_strength_0_is_the_area_mean(film: np.ndarray):
    low = run(DegradationConfig(), 0.0, film)
    assert low.dtype == np.uint8
    np.testing.assert_array_equal(low, np.rint(area_mean(film, 2)))


def test_same_seed_gives_the_same_pixels_and_another_others(film: np.ndarray):
    first, again, other = (run(DegradationConfig(), 0.7, film, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_errors_grow_with_strength(film: np.ndarray):
    clean = area_mean(film, 2)
    errors = [np.abs(run(DegradationConfig(), strength, film) - clean).mean() for strength in (0.1, 0.5, 1.0)]
    assert errors == sorted(errors) and errors[2] > 2 * errors[0]


def test_noise_has_its_standard_deviation():
    low = run(dataclasses.replace(NONE, noise=10.0), 0.5, np.full((1, 256, 256, 3), 128, np.uint8))
    assert low.std() == pytest.approx(5.0, rel=0.02)


def test_wrong_cells_are_flat_in_their_share_and_differ_between_frames():
    config = dataclasses.replace(NONE, block_share=0.5, block_size=4)
    low = run(config, 1.0, np.full((2, 128, 128, 3), 128, np.uint8))
    cells = low.reshape(2, 16, 4, 16, 4, 3)
    assert (cells == cells[:, :, :1, :, :1]).all()
    wrong = (cells[:, :, 0, :, 0] != 128).any(-1)
    assert wrong.mean() == pytest.approx(0.5, abs=0.08)
    assert (wrong[0] != wrong[1]).any()
    assert np.abs(low.astype(int) - 128).max() <= config.block_offset


def test_blur_spreads_an_edge():
    edge = FLAT.copy()
    edge[:, :, 16:] = 255
    sharp, soft = run(NONE, 1.0, edge), run(dataclasses.replace(NONE, blur=2.0), 1.0, edge)
    assert len(np.unique(sharp)) == 2 < len(np.unique(soft))


def test_jpeg_gets_worse_with_strength(film: np.ndarray):
    config = dataclasses.replace(NONE, jpeg_quality=5)
    weak, strong = (np.abs(run(config, s, film) - area_mean(film, 2)).mean() for s in (0.1, 1.0))
    assert 0 < weak < strong
