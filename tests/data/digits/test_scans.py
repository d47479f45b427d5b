import hashlib

import numpy as np

from ernie5.data.digits.scans import load_scans, scans_digest, split_scans

# The split decides who may see what; were it to move, results would no longer compare and scans would leak.
SCANS = "65e5b4619795efb4"
SIZES = {"judge": 599, "test": 299, "validation": 61, "train": 838}
IDS = {
    "judge": "d0e5dd23a4414b1a",
    "test": "82fa4b979e84e064",
    "validation": "b6ef882d0826f366",
    "train": "198090098cbeae51",
}


def test_scans_are_those_that_the_split_was_made_from():
    assert scans_digest(load_scans())[:16] == SCANS


def test_splits_share_no_scan_and_hold_all():
    ids = np.concatenate(list(split_scans(load_scans()).values()))
    assert sorted(ids) == list(range(1797))


def test_split_is_fixed():
    split = split_scans(load_scans())
    assert {name: len(ids) for name, ids in split.items()} == SIZES
    assert {name: hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()[:16] for name, ids in split.items()} == IDS


def test_split_does_not_depend_on_the_order_of_the_scans():
    scans = load_scans()
    order = np.random.default_rng(0).permutation(len(scans.digits))
    shuffled = split_scans(type(scans)(scans.pixels[order], scans.digits[order]))
    assert {name: set(order[ids].tolist()) for name, ids in shuffled.items()} == {
        name: set(ids.tolist()) for name, ids in split_scans(scans).items()
    }


def test_every_split_holds_every_digit_in_its_share():
    scans = load_scans()
    for ids in split_scans(scans).values():
        counts = np.bincount(scans.digits[ids], minlength=10)
        assert counts.min() >= 5
        assert counts.max() - counts.min() <= 0.1 * counts.max() + 2


def test_no_two_scans_are_the_same():
    pixels = load_scans().pixels.reshape(1797, -1)
    assert len(np.unique(pixels, axis=0)) == len(pixels)
