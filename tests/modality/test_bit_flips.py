import numpy as np
import pytest

from ernie5.config.schema import VisionDataConfig
from ernie5.modality.bit_flips import draw_flips, flip_rates

CONFIG = VisionDataConfig(flip_min=0.02, flip_max=0.25, flip_step=0.01)


def many_rates(frames: int, scales: int, config: VisionDataConfig = CONFIG, draws: int = 2000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([flip_rates(frames, scales, config, rng) for _ in range(draws)])


def rates_by_loops(frames: int, scales: int, config: VisionDataConfig, rng: np.random.Generator) -> np.ndarray:
    """The schedule of arXiv:2601.05966, one draw at a time from the unit interval."""
    rates = np.zeros([frames, scales])
    previous = None
    for frame in range(frames):
        for scale in range(scales):
            low, high = config.flip_min + config.flip_step * frame, config.flip_max + config.flip_step * frame
            if scale == 0 and previous is not None:
                low = previous
            previous_draw = low + (high - low) * rng.random()
            rates[frame, scale] = min(max(previous_draw, 0.0), 0.5)
        previous = rates[frame, -1]
    return rates


@pytest.mark.parametrize("frames, scales", [(1, 4), (5, 3), (6, 1), (60, 2)])
def test_rates_are_those_of_the_schedule(frames, scales):
    rates = flip_rates(frames, scales, CONFIG, np.random.default_rng(7))
    expected = rates_by_loops(frames, scales, CONFIG, np.random.default_rng(7))
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_rates_fill_a_window_that_moves_with_the_frame():
    later_scales = many_rates(4, 3)[:, :, 1:]
    for frame in range(4):
        low, high = 0.02 + 0.01 * frame, 0.25 + 0.01 * frame
        drawn = later_scales[:, frame]
        assert low <= drawn.min() < low + 0.001 and high - 0.001 < drawn.max() <= high
        np.testing.assert_allclose(drawn.mean(), (low + high) / 2, atol=0.005)


def test_a_frame_starts_no_better_than_the_one_before_ended():
    rates = many_rates(3, 4)
    assert (rates[:, 1:, 0] >= rates[:, :-1, -1]).all()
    assert (rates[:, 1:, 1] < rates[:, :-1, -1]).any(), "the other scales do not inherit"


def test_rates_stay_within_one_half():
    rates = many_rates(60, 2, draws=5)
    assert rates.max() == 0.5 and (rates[:, -1] == 0.5).all()  # frame 59 draws from [0.61, 0.84]


def test_no_range_means_no_flips():
    rates = flip_rates(3, 2, VisionDataConfig(flip_max=0.0, flip_step=0.0), np.random.default_rng(0))
    assert not rates.any()
    assert not any(drawn.any() for drawn in draw_flips(rates, [(1, 1), (2, 2)], 4, np.random.default_rng(0)))


def test_flips_have_the_shapes_of_the_codes():
    scales = [(1, 1), (2, 3), (4, 5)]
    flips = draw_flips(flip_rates(2, 3, CONFIG, np.random.default_rng(0)), scales, 7, np.random.default_rng(1))
    assert [(drawn.shape, drawn.dtype) for drawn in flips] == [((2, h, w, 7), np.uint8) for h, w in scales]


def test_flips_come_at_their_frames_and_scales_rate():
    rates = np.array([[0.0, 0.1, 0.5], [0.3, 1.0, 0.2]])
    flips = draw_flips(rates, [(16, 16)] * 3, 32, np.random.default_rng(2))
    found = np.stack([drawn.mean((1, 2, 3)) for drawn in flips], axis=1)
    np.testing.assert_allclose(found, rates, atol=0.025)  # five standard deviations of 8192 bits
    assert found[0, 0] == 0 and found[1, 1] == 1


def test_rates_and_flips_repeat_for_the_same_seed_and_differ_for_another():
    def drawn(seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return draw_flips(flip_rates(3, 2, CONFIG, rng), [(2, 2), (6, 6)], 8, rng)

    np.testing.assert_array_equal(drawn(5)[1], drawn(5)[1])
    assert (drawn(5)[1] != drawn(6)[1]).any()
