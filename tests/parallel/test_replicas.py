"""Who shares optimizer state; that gradients and updates are right is seen in whole runs (test_media_run.py)."""

import paddle

from ernie5.parallel.mesh import Mesh
from ernie5.parallel.replicas import Part, Replicas, buckets, cohorts
from ernie5.parallel.runs import Run

MESH = Mesh(pipeline=2, data=4, tensor=2, expert=4, sharding=2)  # stages of 8


def test_a_cohort_is_a_run_of_the_data_axis_at_one_place_of_the_others():
    assert cohorts(MESH.stage(8), MESH) == [[8, 10], [9, 11], [12, 14], [13, 15]]
    assert cohorts(MESH.group(8, "data", "context"), MESH) == [[8, 10], [12, 14]]


def test_experts_that_no_neighbour_has_too_are_not_shared():
    assert cohorts(MESH.expert_replicas(8), MESH) == [[8], [12]]


def test_where_neighbours_differ_in_number_everyone_keeps_all():
    mesh = Mesh(data=6, expert=1, sharding=2)
    assert cohorts([0, 1, 2], mesh) == [[0], [1], [2]]


def test_alone_a_process_owns_counts_and_keeps_everything():
    parameters = [paddle.create_parameter([n], "float32") for n in (3, 1)]
    frozen = paddle.create_parameter([2], "float32")
    frozen.stop_gradient = True
    (parameters[0] * 2.0).sum().backward()
    named = {"a": parameters[0], "b": parameters[1]}
    replicas = Replicas(named | {"frozen": frozen}, Mesh(), 0, Mesh().stage)
    replicas.sum_gradients()
    replicas.share_updates()
    assert replicas.stepped.keys() == named.keys() and not replicas.runs
    assert all(replicas.stepped[name] is one for name, one in named.items())
    assert [id(one) for one in replicas.counted()] == [id(one) for one in parameters]
    assert parameters[0].grad.tolist() == [2, 2, 2] and parameters[1].grad is None


def test_a_bucket_holds_what_one_owner_has_of_a_type_up_to_its_size(monkeypatch):
    monkeypatch.setattr("ernie5.parallel.replicas.BUCKET", 10)
    sizes = [(0, 4), (0, 6), (1, 8), (0, 1), (1, 25), (1, 2), (0, 3)]

    def part(owner: int, size: int, dtype: str = "float32") -> Part:
        return Part("name", paddle.zeros([30], dtype), Run((30,), 2, 2 + size), owner)

    parts = [*(part(owner, size) for owner, size in sizes), part(0, 1, "float64")]
    found = [(owner, [one.run.size for one in bucket]) for owner, bucket in buckets(parts)]
    assert sorted(found) == [(0, [1]), (0, [1, 3]), (0, [4, 6]), (1, [2]), (1, [8]), (1, [25])]
