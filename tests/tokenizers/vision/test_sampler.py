"""Batches of media."""

import numpy as np
import pytest

from ernie5.errors import UserError
from ernie5.tokenizers.vision.sampler import MediaSampler, to_bytes, to_pixels


def medium(frames: int, height: int, width: int, value: int) -> np.ndarray:
    """Frame t is filled with value + t."""
    brightness = np.arange(value, value + frames, dtype=np.uint8)
    return np.broadcast_to(brightness[:, None, None, None], (frames, height, width, 3)).copy()


def test_a_batch_is_of_one_size_and_sizes_come_by_their_number():
    sampler = MediaSampler([medium(1, 4, 4, i) for i in range(9)] + [medium(1, 4, 8, 100)])
    rng = np.random.default_rng(0)
    shapes = [sampler.pictures(rng, 3).shape for _ in range(200)]
    assert set(shapes) == {(3, 1, 4, 4, 3), (3, 1, 4, 8, 3)}
    assert 5 < shapes.count((3, 1, 4, 8, 3)) < 40  # a tenth of 200


def test_pictures_are_any_frames_of_films():
    sampler, rng = MediaSampler([medium(4, 2, 2, 10)]), np.random.default_rng(0)
    assert set(np.unique(sampler.pictures(rng, 64))) == {10, 11, 12, 13}


def test_films_are_pieces_in_order_and_short_ones_are_left_out():
    sampler, rng = MediaSampler([medium(4, 2, 2, 10), medium(2, 2, 2, 90)]), np.random.default_rng(0)
    films = sampler.films(rng, 64, 3)[:, :, 0, 0, 0]
    assert {tuple(film) for film in films.tolist()} == {(10, 11, 12), (11, 12, 13)}


def test_a_sampler_without_media_and_one_without_long_films_are_refused():
    with pytest.raises(UserError, match="no picture and no film"):
        MediaSampler([])
    with pytest.raises(UserError, match="no film of 3 frames"):
        MediaSampler([medium(2, 2, 2, 0)]).films(np.random.default_rng(0), 1, 3)


def test_bytes_survive_the_way_to_pixels_and_back():
    values = np.arange(256, dtype=np.uint8)
    pixels = to_pixels(values)
    assert pixels.min() == -1 and pixels.max() == 1
    np.testing.assert_array_equal(to_bytes(pixels), values)
    np.testing.assert_array_equal(to_bytes(np.array([-1.5, 1.5])), [0, 255])
