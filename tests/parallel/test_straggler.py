"""Who is slower than the others, and when that is said."""

import numpy as np

from ernie5.parallel.straggler import Comparison, Slow, Stragglers


class Exchange:
    """Three processes, of which this one is the second; the others take a second for a step."""

    rank, size = 1, 3

    def summed(self, values):
        return values + np.array([1.0, 0.0, 1.0])


def named(comparison: Comparison, rounds: list[list[float]]) -> list[list[int]]:
    return [[slow.rank for slow in comparison.add(seconds)] for seconds in rounds]


def test_one_is_named_once_after_so_many_comparisons_in_a_row():
    found = named(Comparison(in_a_row=3), [[1.0, 1.6, 1.0]] * 6)
    assert found == [[], [], [1], [], [], []]


def test_a_break_counts_anew_and_names_again():
    slow, even = [1.0, 1.0, 2.0], [1.0, 1.0, 1.0]
    found = named(Comparison(in_a_row=2), [slow, even, slow, slow, even, slow, slow])
    assert found == [[], [], [], [2], [], [], [2]]


def test_less_than_the_factor_is_not_slow():
    assert named(Comparison(in_a_row=1), [[1.0, 1.5, 1.0], [1.0, 1.51, 1.0]]) == [[], [1]]


def test_of_two_the_slower_one_is_named_and_by_how_much():
    assert Comparison(in_a_row=1).add([3.0, 1.0]) == [Slow(0, 3.0)]
    assert "process 0 is slow" in str(Slow(0, 3.0)) and "3.0 times" in str(Slow(0, 3.0))


def test_waiting_for_others_is_no_work():
    waited = iter([10.0, 14.0, 14.0, 14.0])
    stragglers = Stragglers(Exchange(), every=2, waited=lambda: next(waited))
    stragglers._comparison = Comparison(in_a_row=1)
    stragglers.begin_step()
    assert stragglers.end_step(1, 5.0) == []  # 1 second of work
    stragglers.begin_step()
    assert stragglers.end_step(2, 1.0) == [Slow(1, 2.0)]  # and another


def test_what_is_compared_begins_anew():
    stragglers = Stragglers(Exchange(), every=1, waited=lambda: 0.0)
    stragglers._comparison = Comparison(in_a_row=1)
    assert stragglers.end_step(1, 4.0) == [Slow(1, 4.0)]
    assert stragglers.end_step(2, 1.0) == []
