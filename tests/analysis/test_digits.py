import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ernie5.analysis.digits import BLANK, Judge, centroids, grey, motion
from ernie5.analysis.variety import real_pictures
from ernie5.data.digits.render import CELL, FILM_SCALE, Glyph, draw_glyphs, film_glyph, picture_glyph
from ernie5.data.digits.scans import load_scans, split_scans
from ernie5.data.digits.tasks import make_samples
from ernie5.data.digits.world import render_media


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.train()


def rgb(pictures: np.ndarray) -> np.ndarray:
    return np.repeat(pictures[..., None], 3, axis=-1)


def moving(direction: tuple[float, float], pixels_per_frame: float, num_frames: int = 6, scan: int = 12) -> np.ndarray:
    """A film of one digit, uint8 [1, frames, 16, 16, 3], that passes the middle half way."""
    time = np.arange(num_frames) - (num_frames - 1) / 2
    places = [(8 + direction[0] * pixels_per_frame * t, 8 + direction[1] * pixels_per_frame * t) for t in time]
    glyphs = [Glyph(scan, row, column, FILM_SCALE) for row, column in places]
    return rgb(draw_glyphs(load_scans().pixels, glyphs, CELL, CELL))[None]


def test_judge_reads_held_out_scans_as_they_are(judge: Judge):
    scans = load_scans()
    ids = split_scans(scans)["test"]
    pictures = draw_glyphs(scans.pixels, [picture_glyph(i, 8, 8, None) for i in ids], CELL, CELL)
    assert (judge.digit(rgb(pictures))[0] == scans.digits[ids]).mean() >= 0.98


def test_judge_reads_held_out_scans_as_training_varies_them(judge: Judge):
    pictures, digits = real_pictures("test", 30)
    assert (judge.digit(pictures)[0] == digits).mean() >= 0.97


def test_judge_learns_from_its_own_scans_alone(monkeypatch: pytest.MonkeyPatch):
    from ernie5.analysis import digits as module

    scans, seen = load_scans(), set()

    def recorded(style):
        def make(scan, *place):
            seen.add(int(scan))
            return style(scan, *place)

        return make

    monkeypatch.setattr(module, "picture_glyph", recorded(picture_glyph))
    monkeypatch.setattr(module, "film_glyph", recorded(film_glyph))
    Judge.train()
    assert seen == set(split_scans(scans)["judge"].tolist())


def test_judge_is_the_same_every_time(judge: Judge):
    pictures, _ = real_pictures("test", 10)
    again = Judge.train()
    np.testing.assert_array_equal(again.digit(pictures)[1], judge.digit(pictures)[1])


def test_blank_picture_is_no_digit(judge: Judge):
    pictures = np.full((2, CELL, CELL, 3), [[[[0]]], [[[int(BLANK * 255) - 1]]]], dtype=np.uint8)
    assert judge.digit(pictures)[0].tolist() == [-1, -1]


def test_noise_is_no_digit(judge: Judge):
    noise = np.random.default_rng(0).integers(0, 256, (50, CELL, CELL, 3), dtype=np.uint8)
    assert (judge.digit(noise)[0] == -1).all()
    assert (judge.digit(noise)[1] <= 0).all()


@pytest.mark.parametrize("side", [3, 4, 5, 6, 7, 8, 9])
def test_a_square_that_moves_is_no_digit(judge: Judge, side: int):
    film = np.zeros((1, 5, CELL, CELL, 3), np.uint8)
    for time in range(5):
        film[0, time, 3 : 3 + side, time : time + side] = 255
    assert motion(film).direction[0] == "right"
    assert judge.film_digit(film)[0][0] == -1


def test_scene_is_read_from_left_to_right_and_from_top_to_bottom(judge: Judge):
    pictures, digits = real_pictures("test", 4)
    right = digits == judge.digit(pictures)[0]
    first, second = pictures[right][:-1], pictures[right][1:]
    expected = np.stack([digits[right][:-1], digits[right][1:]], axis=1)
    np.testing.assert_array_equal(judge.scene(np.concatenate([first, second], axis=2)), expected)
    np.testing.assert_array_equal(judge.scene(np.concatenate([first, second], axis=1)), expected)


def test_films_of_held_out_scans_are_judged_right(judge: Judge):
    scans = load_scans()
    ids, rng = split_scans(scans)["test"], np.random.default_rng(0)
    chosen = make_samples("animate", 320, scans.digits, ids, rng, vary=True, num_frames=6)
    films = rgb(np.stack(render_media([sample.answer for sample in chosen], scans.pixels)))
    moved = motion(films)
    assert (moved.direction == [s.facts.direction for s in chosen]).mean() >= 0.99
    assert (moved.speed == [s.facts.speed for s in chosen]).mean() >= 0.99
    assert (judge.film_digit(films)[0] == [s.facts.digits[0] for s in chosen]).mean() >= 0.97


@pytest.mark.parametrize("step, name", [((0, 1), "right"), ((0, -1), "left"), ((1, 0), "down"), ((-1, 0), "up")])
@pytest.mark.parametrize("num_frames", [4, 6])
def test_motion_measures_direction_and_speed(step: tuple[int, int], name: str, num_frames: int):
    for travel, word in ((3.0, "slow"), (6.0, "fast")):
        moved = motion(moving(step, travel / (num_frames - 1), num_frames))
        assert (moved.direction[0], moved.speed[0]) == (name, word)
        assert moved.pixels_per_frame[0] == pytest.approx(travel / (num_frames - 1), rel=0.05)


def test_a_film_that_does_not_move_evenly_has_no_direction():
    still = moving((0, 1), 0)
    askew = moving((0.8, 1), 0.8)
    blank = np.zeros_like(still)
    fading = moving((0, 1), 1.0)
    fading[:, -1] = 0
    jumping = moving((0, 1), 1.0)[:, [3, 0, 5, 1, 4, 5]]
    single = still[:, :1]
    for film in (still, askew, blank, fading, jumping, single):
        moved = motion(film)
        assert (moved.direction[0], moved.speed[0], moved.pixels_per_frame[0]) == ("", "", 0)


def test_centroid_is_the_mean_place_of_the_ink():
    picture = np.zeros((1, 6, 8), np.float32)
    picture[0, 1, 2] = picture[0, 1, 6] = picture[0, 4, 4] = 1
    np.testing.assert_allclose(centroids(picture), [[2.5, 4.5]])


def test_centroid_of_a_blank_is_the_middle():
    np.testing.assert_allclose(centroids(np.zeros((1, 6, 8), np.float32)), [[3, 4]])


def test_grey_is_the_mean_of_the_colours():
    assert grey(np.array([[[0, 51, 255]]], np.uint8))[0, 0] == pytest.approx(0.4)


def test_judge_imports_no_model():
    program = "import sys, ernie5.analysis.digits as d; d.Judge.train(); sys.exit(any(n.startswith('ernie5.model') for n in sys.modules) or 'paddle' in sys.modules)"  # noqa: E501
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, timeout=120).returncode == 0
