import numpy as np
import pytest

from ernie5.data.digits.render import CELL, Glyph, cubic_weights, draw_glyphs, film_glyph, picture_glyph
from ernie5.data.digits.scans import load_scans


def keys(distance: float) -> float:
    """Keys' kernel as published (1981, eq. 15)."""
    s = abs(distance)
    if s < 1:
        return 1.5 * s**3 - 2.5 * s**2 + 1
    return -0.5 * s**3 + 2.5 * s**2 - 4 * s + 2 if s < 2 else 0.0


def test_weights_are_those_of_keys_kernel():
    places = np.linspace(-1, 9, 41, dtype=np.float32)
    expected = [[keys(place - (i + 0.5)) for i in range(8)] for place in places]
    np.testing.assert_allclose(cubic_weights(places, 8), expected, atol=1e-5)


def test_plain_glyph_of_one_pixel_a_pixel_is_the_scan():
    scans = load_scans()
    drawn = draw_glyphs(scans.pixels, [Glyph(5, 4, 4, 1.0)], 8, 8)[0]
    np.testing.assert_array_equal(drawn, np.rint(scans.pixels[5] / 16 * 255))


def test_glyph_goes_where_it_is_put():
    scans = load_scans()
    near, far = draw_glyphs(scans.pixels, [Glyph(7, 8, 8, 1.0), Glyph(7, 11, 6, 1.0)], 20, 20)
    np.testing.assert_array_equal(near[:14, 4:], far[3:17, 2:18])


def test_glyph_turns_clockwise():
    bar = np.zeros((1, 8, 8), np.uint8)
    bar[0, 3:5, 4:] = 16  # a hand that points to the right
    turned = draw_glyphs(bar, [Glyph(0, 8, 8, 1.0, angle=np.pi / 2)], 16, 16)[0]
    assert turned[8:].sum() > 0.95 * turned.sum()
    assert turned[10, 7:9].min() > 200


@pytest.mark.parametrize("make", [picture_glyph, film_glyph])
def test_varied_glyph_stays_on_the_canvas(make):
    scans, rng = load_scans(), np.random.default_rng(0)
    glyphs = [make(i, CELL / 2, CELL / 2, rng) for i in range(300)]
    small = draw_glyphs(scans.pixels, glyphs, CELL, CELL).astype(float)
    large = draw_glyphs(scans.pixels, [glyph.moved(8, 8) for glyph in glyphs], 2 * CELL, 2 * CELL).astype(float)
    lost = 1 - small.sum((1, 2)) / large.sum((1, 2))
    assert lost.max() < 0.06


def test_varied_glyphs_differ_and_plain_ones_do_not():
    scans, rng = load_scans(), np.random.default_rng(0)
    glyphs = [picture_glyph(3, 8, 8, style) for style in (rng, rng, None, None)]
    varied, other, plain, same = draw_glyphs(scans.pixels, glyphs, CELL, CELL)
    assert (varied != other).any()
    assert (plain == same).all()
