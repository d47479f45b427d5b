from itertools import combinations

import pytest

from ernie5.planning.routing import expected_groups


@pytest.mark.parametrize(("experts", "top_k", "groups"), [(8, 2, 4), (8, 3, 2), (12, 5, 3), (6, 6, 3), (9, 1, 9)])
def test_expected_groups_are_those_of_all_choices_counted(experts: int, top_k: int, groups: int):
    choices = list(combinations(range(experts), top_k))
    visited = sum(len({expert // (experts // groups) for expert in choice}) for choice in choices)
    assert expected_groups(experts, top_k, groups) == pytest.approx(visited / len(choices), rel=1e-12)


def test_one_group_is_always_visited():
    assert expected_groups(64, 8, 1) == 1.0
