"""The mixture: proportions, epochs, purity."""

from collections import Counter

import pytest

from ernie5.data.mixture import Mixture


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0), (0.7, 0.2, 0.1), (5.0, 3.0, 1e-3), (0.1, 0.1, 0.1, 0.1)])
def test_every_source_keeps_its_share_at_every_moment(weights):
    mixture = Mixture([str(i) for i in range(len(weights))], [10] * len(weights), weights, seed=0)
    counts = Counter()
    for number in range(3000):
        for source, weight in enumerate(weights):
            assert abs(counts[source] - number * weight / sum(weights)) < len(weights)
        counts[mixture.draw(number).source] += 1


def test_every_epoch_visits_each_document_once_in_a_fresh_order():
    mixture = Mixture(["a", "b"], [7, 5], [1.0, 2.0], seed=3)
    visits = {}
    for number in range(300):
        draw = mixture.draw(number)
        visits.setdefault((draw.source, draw.epoch), []).append(draw.index)
    full = {key: order for key, order in visits.items() if len(order) == (7, 5)[key[0]]}
    assert len(full) > 30
    assert all(sorted(order) == list(range(len(order))) for order in full.values())
    assert len({tuple(order) for key, order in full.items() if key[0] == 0}) > 10


def test_draw_does_not_depend_on_what_was_drawn_before():
    forward = [Mixture(["a", "b"], [7, 5], [1.0, 2.0], 3).draw(n) for n in range(50)]
    mixture = Mixture(["a", "b"], [7, 5], [1.0, 2.0], 3)
    assert [mixture.draw(n) for n in reversed(range(50))] == forward[::-1]


def test_another_seed_draws_another_order():
    orders = [[Mixture(["a"], [50], [1.0], seed).draw(n).index for n in range(50)] for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_epochs_count_what_was_drawn():
    mixture = Mixture(["a", "b"], [7, 5], [1.0, 2.0], 0)
    counts = Counter(mixture.draw(n).source for n in range(100))
    assert mixture.epochs(100) == {"a": counts[0] / 7, "b": counts[1] / 5}
