"""Frames are brought to the sizes that the model takes."""

import numpy as np
import pytest

from ernie5.config.schema import ResolutionConfig
from ernie5.data.media import fit_native, fit_resolution, native_size, nearest_resolution
from ernie5.errors import UserError


def resolutions(*sizes):
    return [ResolutionConfig(height=height, width=width, scales=()) for height, width in sizes]


def noise(frames, height, width):
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "size, nearest",
    [
        ((141, 100), (32, 32)),
        ((142, 100), (48, 24)),
        ((100, 141), (32, 32)),
        ((100, 142), (24, 48)),
        ((1, 9), (24, 48)),
    ],
)
def test_nearest_aspect_ratio_is_by_the_logarithm(size, nearest):
    # Between 1 : 1 and 2 : 1 the border is at sqrt(2) = 1.414.
    found = nearest_resolution(*size, resolutions((32, 32), (48, 24), (24, 48)))
    assert (found.height, found.width) == nearest


def test_of_one_shape_the_nearest_size_is_taken():
    table = resolutions((16, 16), (64, 64), (256, 256))
    assert [nearest_resolution(n, n, table).height for n in (1, 31, 33, 100, 1000)] == [16, 16, 64, 64, 256]


def test_frames_of_a_listed_size_are_returned_as_they_are():
    frames = noise(2, 24, 48)
    assert fit_resolution(frames, resolutions((32, 32), (24, 48))) is frames


def test_resizing_covers_and_cuts_the_sides_evenly():
    # Twice as wide as high: of the four quarters of the width the two in the middle stay.
    frames = np.repeat(np.array([0, 80, 160, 240], dtype=np.uint8), 16)[None, None, :, None]
    frames = np.broadcast_to(frames, (3, 32, 64, 3))
    fitted = fit_resolution(frames, resolutions((16, 16)))
    assert fitted.shape == (3, 16, 16, 3) and fitted.dtype == np.uint8
    assert (np.abs(fitted[..., :8, :].astype(int) - 80) <= 10).all()  # it swings over at the edge in the middle
    assert (np.abs(fitted[..., 8:, :].astype(int) - 160) <= 10).all()


def test_resizing_cuts_top_and_bottom_of_what_is_too_high():
    frames = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None, None], (1, 64, 32, 3))
    fitted = fit_resolution(frames, resolutions((32, 32)))
    np.testing.assert_array_equal(fitted[0, :, 5, 1], np.arange(16, 48))


def test_making_smaller_averages_instead_of_picking_pixels():
    frames = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    frames[:, ::2, ::2] = 255  # a quarter of the pixels
    assert np.abs(fit_resolution(frames, resolutions((8, 8))).astype(int) - 64).max() <= 6


def test_one_pixel_fills_the_resolution():
    frames = np.full((1, 1, 1, 3), 77, dtype=np.uint8)
    fitted = fit_resolution(frames, resolutions((16, 32)))
    assert fitted.shape == (1, 16, 32, 3) and (fitted == 77).all()


def test_native_frames_of_whole_cells_are_returned_as_they_are():
    frames = noise(2, 24, 40)
    assert fit_native(frames, 8, 24 * 40) is frames


@pytest.mark.parametrize(
    "size, fitted",
    [
        ((28, 28), (32, 32)),  # 3.5 cells, to the even one
        ((30, 50), (32, 48)),
        ((1, 1), (8, 8)),
        ((200, 100), (88, 40)),  # 64 cells are allowed: 11.3 x 5.6
        ((1, 200), (8, 200)),
        ((10, 2000), (8, 512)),  # a strip: all the cells there are, in one row
    ],
)
def test_native_size_keeps_the_shape_in_whole_cells(size, fitted):
    assert native_size(*size, multiple=8, max_pixels=4096) == fitted


def test_native_size_never_exceeds_the_limit():
    rng = np.random.default_rng(0)
    for height, width, multiple, cells in rng.integers(1, [3000, 3000, 20, 300], (2000, 4)).tolist():
        limit = cells * multiple**2 + multiple
        fitted = native_size(height, width, multiple, limit)
        assert fitted[0] * fitted[1] <= limit and min(fitted) >= multiple
        assert not fitted[0] % multiple and not fitted[1] % multiple


def test_native_frames_are_resized_whole():
    frames = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, None, :, None] * 4, (2, 64, 64, 3))
    fitted = fit_native(frames, 8, 1024)
    assert fitted.shape == (2, 32, 32, 3)
    assert np.abs(fitted[1, 3, 1:-1, 0].astype(int) - (np.arange(32) * 8 + 2)[1:-1]).max() <= 1


def test_limit_below_one_token_is_refused():
    with pytest.raises(UserError, match="max_understanding_pixels is 63: .*at least 64"):
        native_size(10, 10, multiple=8, max_pixels=63)
