"""Who shares optimizer state; that gradients and updates are right is seen in whole runs (test_media_run.py)."""

import paddle
import pytest

from ernie5.parallel.mesh import Mesh
from ernie5.parallel.replicas import Replicas, balanced, buckets, cohorts

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
    replicas = Replicas([*parameters, frozen], Mesh(), 0, Mesh().stage)
    replicas.sum_gradients()
    replicas.share_updates()
    assert replicas.owned() == replicas.counted() == parameters
    assert parameters[0].grad.tolist() == [2, 2, 2] and parameters[1].grad is None


@pytest.mark.parametrize(("sizes", "parts", "owners"), [([4, 9, 3, 2], 2, [1, 0, 1, 1]), ([5, 5, 5], 2, [0, 1, 0])])
def test_the_largest_goes_first_to_the_emptiest(sizes, parts, owners):
    assert balanced(sizes, parts) == owners


def test_a_bucket_holds_what_one_owner_has_of_a_type_up_to_its_size(monkeypatch):
    monkeypatch.setattr("ernie5.parallel.replicas.BUCKET", 10)
    owned = [(0, 4), (0, 6), (1, 8), (0, 1), (1, 25), (1, 2), (0, 3)]
    tensors = [(owner, paddle.zeros([size])) for owner, size in owned] + [(0, paddle.zeros([1], "float64"))]
    found = [(owner, [tensor.size for tensor in bucket]) for owner, bucket in buckets(tensors)]
    assert sorted(found) == [(0, [1]), (0, [1, 3]), (0, [4, 6]), (1, [2]), (1, [8]), (1, [25])]
