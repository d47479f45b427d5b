from dataclasses import replace
from pathlib import Path

import pytest

from ernie5.config.load import load_model_config
from ernie5.config.schema import StageConfig
from ernie5.planning.assumptions import Policy
from ernie5.planning.case import Case
from ernie5.planning.cluster import load_cluster
from ernie5.planning.layout import parse_layout
from ernie5.planning.memory import rank_memory
from ernie5.planning.search import (
    candidates,
    case_refusals,
    make_plan,
    memory_refusal,
    peak_memory,
    policies,
    search,
)
from ernie5.planning.tensors import rank_parameters
from tests.planning.cases import CLUSTER, MODEL, STAGE, case

ROOT = Path(__file__).parents[2]
BOTH = policies(Policy(), "auto")


def test_every_candidate_uses_every_gpu_and_none_comes_twice():
    layouts = list(candidates(MODEL, CLUSTER))
    assert all(layout.gpus == 16 for layout in layouts)
    assert len(set(layouts)) == len(layouts)


def test_every_candidate_is_planned_or_refused():
    found = search(MODEL, STAGE, CLUSTER, BOTH)
    planned = {plan.layout for plan in found.plans}
    assert found.tried == len(planned) + found.refused.total()
    assert found.refused["batch over data"] == 0  # 48 rows divide by every data degree of 16 GPUs
    assert found.refused["expert group"] > 0


def test_plans_come_fastest_first():
    seconds = [plan.time.total for plan in search(MODEL, STAGE, CLUSTER, BOTH).plans]
    assert seconds == sorted(seconds)


def test_a_search_finds_no_plan_where_nothing_fits():
    found = search(MODEL, STAGE, replace(CLUSTER, memory_gib=4.0), BOTH)
    assert not found.plans
    assert found.refused["memory"] > 0


def test_memory_is_refused_with_what_takes_most():
    memory, _ = peak_memory(case())
    sentence = memory_refusal(memory, replace(CLUSTER, memory_gib=4.0))
    assert sentence is not None
    assert "runtime takes 4.0" in sentence
    assert memory_refusal(memory, CLUSTER) is None


def test_the_fullest_rank_is_found_without_looking_at_all():
    for degrees in ({"pipeline": 4, "data": 4}, {"pipeline": 2, "virtual_stages": 3}, {"pipeline": 8, "tensor": 2}):
        one = case(**degrees)
        most = max(rank_memory(one, rank).total for rank in range(one.layout.pipeline))
        memory, fullest = peak_memory(one)
        assert memory.total == rank_memory(one, fullest).total == most


@pytest.fixture(scope="module")
def report() -> Case:
    """TP 4 x PP 12 with virtual stages x EP 64, ZeRO-1 (report §5): `full_2p4t` on 2,304 GPUs of 80 GB."""
    model = load_model_config(ROOT / "configs/model/full_2p4t.yaml")
    cluster = load_cluster(str(ROOT / "configs/cluster/h800_2304.yaml"))
    layout = parse_layout("tensor=4,pipeline=12,virtual_stages=2,expert=64", cluster)
    stage = StageConfig(name="8k", max_seq_len=8192, num_tokens=10**13, batch_tokens=54 * 2**20)
    return Case(model, stage, layout, Policy(recompute="full"))


def test_the_reports_layout_fits_with_recompute_alone(report: Case):
    cluster = load_cluster(str(ROOT / "configs/cluster/h800_2304.yaml"))
    assert case_refusals(report, cluster) == {}
    kept = replace(report, policy=Policy())
    assert list(case_refusals(kept, cluster)) == ["memory"]
    assert "activations takes" in case_refusals(kept, cluster)["memory"]
    plan = make_plan(report, cluster)
    assert 37 < plan.memory.total / 2**30 < 50  # 10 of them are the optimizer state of the embedding
    assert plan.time.bubble_share == pytest.approx(11 / (2 * 144))


def test_the_reports_layout_has_its_experts_once_a_group(report: Case):
    layout = report.layout
    assert (layout.data, layout.sharding, layout.expert_replicas) == (48, 48, 3)
    per_rank = [rank_parameters(report.model, layout, 8192, rank).experts for rank in range(12)]
    expert = 3 * 8192 * 3584
    assert sum(per_rank) * 64 == 73 * 384 * expert  # 72 layers and the prediction block
    layers = [sum(piece.layers for piece in report.pieces(rank)) for rank in range(12)]
    assert sum(layers) == 72


def test_the_reports_layout_takes_whole_pipelines_of_gpus(report: Case):
    cluster = load_cluster(str(ROOT / "configs/cluster/h800_4096.yaml"))
    layout = parse_layout("tensor=4,pipeline=12,expert=64", cluster)
    assert "product of degrees" in case_refusals(replace(report, layout=layout), cluster)
