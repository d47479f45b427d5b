"""Shuffles without storage: bijections that depend on their key and never on the machine."""

from collections import Counter

import pytest

from ernie5.data.shuffle import derive_key, permute


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000])
def test_permute_is_a_bijection(size):
    assert sorted(permute(i, size, key=12345) for i in range(size)) == list(range(size))


def test_permute_reaches_every_order_of_three_about_equally():
    orders = Counter(tuple(permute(i, 3, derive_key(0, k)) for i in range(3)) for k in range(6000))
    assert len(orders) == 6
    assert max(orders.values()) < 1.25 * min(orders.values())


def test_permute_leaves_neighbours_apart():
    size = 10_000
    places = [permute(i, size, key=7) for i in range(size)]
    distance = sum(abs(a - b) for a, b in zip(places, places[1:], strict=False)) / size
    assert distance == pytest.approx(size / 3, rel=0.05)  # that of independent uniform places


def test_order_is_the_same_on_every_machine_and_version():
    assert derive_key(1, "order", "docs", 0) == 13757815263673673467
    assert [permute(i, 10, 99) for i in range(10)] == [4, 0, 9, 7, 3, 6, 2, 5, 8, 1]
