import numpy as np
import pytest

from ernie5.analysis.variety import diversity, real_pictures
from ernie5.data.digits.render import CELL, draw_glyphs, picture_glyph
from ernie5.data.digits.scans import load_scans, split_scans

PER_DIGIT = 20


def plain_pictures(split: str) -> tuple[np.ndarray, np.ndarray]:
    scans = load_scans()
    ids = split_scans(scans)[split]
    drawn = draw_glyphs(scans.pixels, [picture_glyph(i, 8, 8, None) for i in ids], CELL, CELL)
    return np.repeat(drawn[..., None], 3, axis=-1), scans.digits[ids]


@pytest.mark.parametrize("noise", [0, 10, 34])
def test_copies_of_one_hand_are_found_out_whatever_their_noise(noise: float):
    pictures, digits = real_pictures("train", PER_DIGIT)
    real = diversity(pictures, digits)
    rng = np.random.default_rng(0)
    copies = pictures[::PER_DIGIT].repeat(PER_DIGIT, 0) + rng.normal(0, noise, (len(digits), CELL, CELL, 1))
    collapsed = diversity(np.clip(copies, 0, 255).astype(np.uint8), digits)
    assert collapsed.class_deviation < real.class_deviation / 3
    assert collapsed.near_duplicates > 0.4
    assert collapsed.uncovered > real.uncovered + 10


def test_real_pictures_are_diverse():
    real = diversity(*real_pictures("train", PER_DIGIT))
    assert real.class_deviation > 30
    assert real.near_duplicates < 0.03


def test_copied_scans_are_nearer_to_training_than_ones_never_seen():
    copied, unseen = diversity(*real_pictures("train", PER_DIGIT)), diversity(*real_pictures("test", PER_DIGIT))
    assert copied.closer_to_train > 0.65
    assert copied.nearest_train < copied.nearest_unseen - 3
    assert 0.4 < unseen.closer_to_train < 0.6
    assert unseen.nearest_train == pytest.approx(unseen.nearest_unseen, abs=1)


def test_a_few_copies_among_many_show_in_the_quantiles():
    pictures, digits = real_pictures("test", PER_DIGIT)
    copies, classes = plain_pictures("train")
    pictures[:: len(pictures) // 12] = copies[
        [int(np.flatnonzero(classes == d)[0]) for d in digits[:: len(digits) // 12]]
    ]
    mixed = diversity(pictures, digits)
    assert mixed.closest_1_percent == mixed.closest_5_percent == pytest.approx(0, abs=1e-3)
    assert mixed.nearest_train > 15  # the mean hides them


def test_every_training_scan_is_its_own_nearest():
    assert diversity(*plain_pictures("train")).closest_5_percent == pytest.approx(0, abs=1e-3)
    assert diversity(*plain_pictures("judge")).nearest_unseen == pytest.approx(0, abs=1e-3)


def test_held_out_scans_cover_themselves():
    assert diversity(*plain_pictures("test")).uncovered == pytest.approx(0, abs=1e-3)
