import pytest

from ernie5.config.schema import ParallelConfig
from ernie5.errors import UserError
from ernie5.parallel.mesh import Mesh, Place, make_mesh

EIGHT = Mesh(pipeline=2, data=1, context=2, tensor=2, expert=2)


def test_tensor_neighbours_come_first_and_pipeline_stages_last():
    assert [EIGHT.place(rank) for rank in (0, 1, 2, 4, 7)] == [
        Place(0, 0, 0, 0),
        Place(0, 0, 0, 1),
        Place(0, 0, 1, 0),
        Place(1, 0, 0, 0),
        Place(1, 0, 1, 1),
    ]


@pytest.mark.parametrize(
    ("axes", "expected"), [(("tensor",), [4, 5]), (("context",), [5, 7]), (("pipeline",), [1, 5]), ((), [5])]
)
def test_a_group_is_those_who_differ_on_its_axes_alone(axes, expected):
    assert EIGHT.group(5, *axes) == expected


def test_the_experts_of_a_stage_lie_on_its_processes():
    assert EIGHT.stage(5) == [4, 5, 6, 7]
    assert EIGHT.experts(5) == [4, 5]
    assert EIGHT.expert_replicas(5) == [5, 7]


@pytest.mark.parametrize(
    ("processes", "degrees", "message"),
    [
        (6, {"expert": 4}, r"parallel.expert is 4, .* the 6 processes .*: set it to one of 1, 2, 3, 6"),
        (8, {"pipeline": 2, "expert": 8}, r"the 4 processes of a pipeline stage: set it to one of 1, 2, 4"),
        (8, {"tensor": 3}, r"tensor 3 does not divide the 8 processes .*: start a multiple of 3"),
        (8, {"tensor": 2, "pipeline": 3}, r"pipeline 3 x tensor 2 is 6 and does not divide the 8 processes"),
        (8, {"tensor": 2, "sharding": 8}, r"parallel.sharding is 8, .* the 4 processes of the data axis"),
    ],
)
def test_degrees_that_do_not_fit_are_refused_with_those_that_do(processes, degrees, message):
    with pytest.raises(UserError, match=message):
        make_mesh(processes, ParallelConfig(**degrees))


def test_data_is_what_the_other_degrees_leave():
    assert make_mesh(8, ParallelConfig(tensor=2, expert=4)) == Mesh(data=4, tensor=2, expert=4)
