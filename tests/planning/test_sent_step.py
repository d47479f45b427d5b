"""The planner against one step of real processes: what each has, keeps in a forward pass and sends, by group."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass, fields

import numpy as np
import pytest

from ernie5.config.load import load_model_config
from ernie5.config.schema import StageConfig
from ernie5.planning.assumptions import Policy
from ernie5.planning.case import Case
from ernie5.planning.layout import Layout
from ernie5.planning.memory import layer_activation_bytes, optimizer_bytes
from ernie5.planning.tensors import RankParameters, rank_parameters
from ernie5.planning.traffic import rank_traffic
from tests.planning import held_parameters, sent_step
from tests.planning.cases import CLUSTER
from tests.planning.sent_step import CASES

pytestmark = pytest.mark.multiproc
FLOAT32 = Policy(precision="float32")
ALWAYS = ("tensor", "context", "pipeline", "expert")


def layout_of(count: int, degrees: dict[str, int]) -> Layout:
    shared = degrees.get("pipeline", 1) * degrees.get("context", 1) * degrees.get("tensor", 1)
    return Layout(data=count // shared, **degrees)


def run(program, count: int, argument: str, folder, name: str) -> list[dict]:
    """What each process has found."""
    command = [sys.executable, program.__file__, str(count), argument, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return [json.loads((folder / f"{name}_{rank}.json").read_text()) for rank in range(count)]


@dataclass(frozen=True)
class Step:
    """A layout's plan beside what its processes have found, by pipeline rank."""

    case: Case
    found: list[list[dict]]


@pytest.fixture(
    scope="module",
    params=[name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def step(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Step:
    count, degrees, changes = CASES[request.param]
    found = run(sent_step, count, request.param, tmp_path_factory.mktemp("step"), "step")
    tokens = sent_step.SEQ * sent_step.ROWS
    stage = StageConfig(name="one", max_seq_len=sent_step.SEQ, num_tokens=tokens, batch_tokens=tokens)
    layout = layout_of(count, degrees)
    by_stage = [[one for one in found if one["stage"] == rank] for rank in range(layout.pipeline)]
    return Step(Case(sent_step.model_config(changes), stage, layout, FLOAT32), by_stage)


def test_weights_and_the_fullest_optimizer_are_planned_exactly(step: Step):
    for rank, found in enumerate(step.found):
        assert {one["parameters"] for one in found} == {step.case.parameters(rank).total}
        moments = optimizer_bytes(step.case.parameters(rank), step.case.layout, FLOAT32) / 4
        states = [one["state"] for one in found]
        assert max(states) == moments
        assert max(states) - min(states) <= 2 * len(fields(RankParameters))  # two moments of an element of each kind


def test_bytes_of_every_group_are_planned_within_5_percent(step: Step):
    for rank, found in enumerate(step.found):
        for group, flow in rank_traffic(step.case, CLUSTER, rank).items():
            sent = np.mean([one["sent"].get(group, 0) for one in found])
            assert sent == pytest.approx(flow.total, rel=0.05), group


def test_nothing_is_sent_beside(step: Step):
    for one in (one for found in step.found for one in found):
        sent = one["sent"]
        assert sent.pop("all") == sum(sent.values())


@pytest.mark.skipif(importlib.util.find_spec("ernie5_ops") is None, reason="definitions keep more than operators")
def test_what_layers_keep_is_planned_within_5_percent(step: Step):
    case, moe, attention = step.case, step.case.model.moe, step.case.model.attention
    own, context = case.tokens / case.layout.tensor, case.layout.context
    # Planned is the place of a context group that sees every key; the others see 1 / 2 context less, one by one.
    keys = own * context * 2 * attention.num_key_value_heads * attention.head_dim * 4
    unseen = (context - 1) / (4 * context) * keys
    # The operator that a CPU has for experts which are all here keeps no rows in their order.
    unmade = own * moe.num_experts_per_tok * case.model.hidden_size * 4 * (case.layout.expert == 1)
    for found in step.found:
        for layer_id in {layer_id for one in found for layer_id, _ in one["kept"]}:
            kept = np.mean([dict(one["kept"])[layer_id] for one in found])
            routes = layer_id >= moe.num_dense_layers
            planned = layer_activation_bytes(case, routes) - unseen - unmade * routes
            assert kept == pytest.approx(planned, rel=0.05), layer_id


@pytest.mark.parametrize(
    ("count", "degrees"),
    [
        (2, {"pipeline": 2}),
        pytest.param(4, {"sharding": 4, "expert": 2}, marks=pytest.mark.slow),
        pytest.param(4, {"tensor": 2, "expert": 2, "sharding": 2}, marks=pytest.mark.slow),
        pytest.param(8, {"pipeline": 2, "tensor": 2, "expert": 4, "sharding": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_model_that_sees_and_speaks_lies_as_planned(count: int, degrees: dict[str, int], tmp_path):
    model, layout = load_model_config(held_parameters.MODEL), layout_of(count, degrees)
    found = run(held_parameters, count, json.dumps(degrees), tmp_path, "held")
    for rank in range(layout.pipeline):
        of_stage = [one for one in found if one["stage"] == rank]
        planned = rank_parameters(model, layout, held_parameters.SEQ, rank)
        assert {(one["parameters"], one["frozen"]) for one in of_stage} == {(planned.total, planned.frozen)}
        owned = [one["owned"] for one in of_stage]
        assert max(owned) == optimizer_bytes(planned, layout, FLOAT32) / 8
        assert max(owned) - min(owned) <= len(fields(RankParameters))
