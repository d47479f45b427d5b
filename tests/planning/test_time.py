from dataclasses import replace

import pytest

from ernie5.errors import UserError
from ernie5.planning import time
from ernie5.planning.assumptions import Policy
from ernie5.planning.parameters import flops_per_token
from ernie5.planning.schedule import run
from ernie5.planning.stages import tail_flops
from ernie5.planning.time import step_time
from tests.planning.cases import CLUSTER, MODEL, STAGE, VARIANTS, case

# Links and memory so fast that products are all that is left.
FAST = replace(CLUSTER, memory_gb_per_s=1e15, intra_gb_per_s=1e15, inter_gb_per_s=1e15, intra_latency_us=0)
FAST = replace(FAST, inter_latency_us=0)


@pytest.fixture
def at_the_peak(monkeypatch: pytest.MonkeyPatch):
    for name in ("MATMUL", "ATTENTION", "EXPERTS", "EXPERTS_FLOAT8", "MEMORY", "NETWORK"):
        monkeypatch.setattr(time, name, 1.0)


def test_at_the_peak_a_gpu_takes_three_forward_passes(at_the_peak: None):
    model = replace(MODEL, num_nextn_predict_layers=0)
    cluster = replace(FAST, gpus=1)
    step = step_time(case(model), cluster)
    assert step.total == pytest.approx(3 * flops_per_token(model, 64) * STAGE.batch_tokens / 1e15)
    assert step.mfu == pytest.approx(1.0)


@pytest.mark.parametrize("degrees", [{"data": 16, "expert": 8}, {"tensor": 4, "data": 4}])
def test_more_gpus_share_the_work(at_the_peak: None, degrees: dict[str, int]):
    model = replace(VARIANTS["all_sparse"], num_nextn_predict_layers=0)
    assert step_time(case(model, **degrees), FAST).mfu == pytest.approx(1.0)


def test_full_recompute_takes_a_third_more(at_the_peak: None):
    cluster = replace(FAST, gpus=1)
    plain, again = (step_time(case(policy=Policy(recompute=kind)), cluster) for kind in ("none", "full"))
    assert again.total / plain.total == pytest.approx(4 / 3)
    assert again.flops == plain.flops


def test_the_prediction_block_takes_time_and_no_share_of_mfu(at_the_peak: None):
    cluster = replace(FAST, gpus=1)
    step = step_time(case(), cluster)
    head = 2 * MODEL.hidden_size * MODEL.vocab_size
    block = (tail_flops(MODEL, 64).total - head) / flops_per_token(MODEL, 64)
    assert step.mfu == pytest.approx(1 / (1 + block))


@pytest.mark.parametrize("virtual_stages", [1, 2])
def test_a_pipeline_of_equal_pieces_takes_what_its_simulation_takes(at_the_peak: None, virtual_stages: int):
    # A head that weighs one layer: 4 pieces of 2 layers, the last of 1 and the head, or 8 pieces of 1.
    layers = 7
    model = replace(VARIANTS["all_sparse"], num_hidden_layers=layers, num_nextn_predict_layers=0)
    body = flops_per_token(model, 64) - 2 * model.hidden_size * model.vocab_size
    vocab = body / layers / (2 * model.hidden_size)
    model = replace(model, vocab_size=round(vocab))
    one = case(model, pipeline=4, virtual_stages=virtual_stages, data=4)
    step = step_time(one, FAST)
    forward = flops_per_token(model, 64) * 64 / 1e15 / (4 * virtual_stages)
    end = max(spans[-1].end for spans in run(4, virtual_stages, one.microbatches, forward, 2 * forward))
    assert step.total == pytest.approx(end, rel=5e-3)


def test_the_slowest_rank_sets_the_pace():
    step = step_time(case(pipeline=4, data=4), FAST)
    alone = {rank: sum(piece.layers for piece in case(pipeline=4, data=4).pieces(rank)) for rank in range(4)}
    assert alone[step.slowest] == max(alone.values())


def test_what_overlaps_is_not_waited_for():
    slow, hidden, half = (
        step_time(case(policy=Policy(expert_overlap=share), data=16, expert=16), CLUSTER).work.dispatch
        for share in (0.0, 1.0, 0.5)
    )
    assert slow > 0
    assert hidden == 0
    assert half == pytest.approx(slow / 2)


def test_the_slower_link_and_every_message_count(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "NETWORK", 0.5)
    one = case(data=16, expert=16)
    flow = time.rank_traffic(one, CLUSTER, 0)["expert"]
    expected = max(flow.intra / 100e9, flow.inter / 25e9) + flow.messages * 15e-6
    assert step_time(one, CLUSTER).work.dispatch == pytest.approx(expected)


def test_few_tokens_wait_for_the_experts_weights(at_the_peak: None):
    cluster = replace(FAST, memory_gb_per_s=1e-3, gpus=1)
    parameters = case().parameters(0).experts
    step = step_time(case(), cluster)
    assert step.work.experts == pytest.approx(48 * parameters * (2 * 2 + 2 * 2) / 1e6)


def test_float8_needs_a_gpu_that_has_it():
    with pytest.raises(UserError, match="fp8_tflops"):
        step_time(case(policy=Policy(precision="float8")), replace(CLUSTER, fp8_tflops=0))


def test_float8_makes_experts_faster_and_nothing_slower():
    plain, quick = (
        step_time(case(policy=Policy(precision=name), data=16), FAST).work for name in ("bfloat16", "float8")
    )
    assert quick.experts < plain.experts
    assert (quick.matmul, quick.attention) == (plain.matmul, plain.attention)
