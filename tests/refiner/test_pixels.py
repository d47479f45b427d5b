import numpy as np

from ernie5.refiner.pixels import area_mean, edges, fit_short_side, flicker, psnr, to_float, to_uint8, upsample


def test_every_value_survives_the_way_to_floats_and_back():
    values = np.arange(256, dtype=np.uint8)
    floats = to_float(values)
    assert (floats.min(), floats.max()) == (-1, 1)
    np.testing.assert_array_equal(to_uint8(floats), values)


def test_floats_out_of_range_are_clipped():
    np.testing.assert_array_equal(to_uint8(np.array([-3.0, 3.0])), [0, 255])


def test_area_mean_averages_the_pixels_of_a_cell():
    frames = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    small = area_mean(frames, 2)
    assert small.shape == (2, 2, 3, 3)
    assert small[1, 1, 2, 0] == frames[1, 2:4, 4:6, 0].mean()


def test_upsampling_keeps_flat_areas_and_frames():
    frames = np.stack([np.full((3, 4, 3), value, np.uint8) for value in (7, 200)])
    np.testing.assert_array_equal(upsample(frames, 4), np.repeat(np.repeat(frames, 4, 1), 4, 2))


def test_short_side_is_met_and_shape_kept():
    assert fit_short_side(np.zeros((2, 30, 61, 3), np.uint8), 10).shape == (2, 10, 20, 3)


def test_psnr_of_a_known_error():
    original = np.zeros((1, 2, 2, 3), np.uint8)
    assert abs(psnr(original + 16, original) - 24.0485) < 1e-3  # 20 log10(255 / 16)
    assert psnr(original, original) == 100


def test_edges_are_the_length_of_the_gradient():
    ramp = np.add.outer(np.arange(5) * 3, np.arange(5) * 4).astype(np.uint8)
    assert edges(np.stack([ramp] * 3, -1)[None]) == 5


def test_flicker_is_the_change_that_the_original_does_not_have():
    original = np.zeros((3, 2, 2, 3), np.uint8)
    made = original.copy()
    made[1] = 10
    assert flicker(made, original) == 10
    assert flicker(original + 50, original) == 0  # off, but steady
