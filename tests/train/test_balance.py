"""The balancing bias on one process without fleet, and the metrics of load."""

import dataclasses
import math

import numpy as np
import paddle
import pytest

from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import full_subnet, make_subnet
from ernie5.train.balance import ExpertBalance, normalized_entropy

LOAD = [10, 0, 4, 4, 2, 4, 7, 1]  # mean 4


@pytest.fixture
def model(tiny_model_config) -> Ernie5ForCausalLM:
    """Layer 0 dense, layers 1 and 2 and the prediction block (3) routed."""
    moe = dataclasses.replace(tiny_model_config.moe, num_dense_layers=1)
    return Ernie5ForCausalLM(dataclasses.replace(tiny_model_config, moe=moe, intermediate_size=24))


def biases(model: Ernie5ForCausalLM) -> dict[int, np.ndarray]:
    return {i: block.mlp.gate.expert_bias.numpy() for i, block in model.blocks().items() if block.routes}


def update(model, loads: list[dict[int, list[int]]], subnet=None, speed=0.25):
    balance = ExpertBalance(model)
    for micro_batch in loads:
        balance.collect({layer_id: paddle.to_tensor(load) for layer_id, load in micro_batch.items()})
    return balance.update(subnet or full_subnet(model.config), speed)


def test_bias_falls_for_the_overloaded_rises_for_the_others_and_rests_at_the_mean(model):
    update(model, [{1: LOAD}])
    assert biases(model)[1].tolist() == [-0.25, 0.25, 0, 0, 0.25, 0, -0.25, 0.25]


def test_a_bias_moves_from_where_it_stands(model):
    model.blocks()[1].mlp.gate.expert_bias.set_value(np.arange(8, dtype=np.float32))
    update(model, [{1: LOAD}])
    assert biases(model)[1].tolist() == [-0.25, 1.25, 2, 3, 4.25, 5, 5.75, 7.25]


def test_layers_that_did_not_run_keep_their_bias(model):
    update(model, [{2: LOAD}])
    assert (biases(model)[1] == 0).all() and (biases(model)[3] == 0).all() and (biases(model)[2] != 0).any()


def test_the_prediction_block_is_balanced_too(model):
    update(model, [{3: LOAD}])
    assert (biases(model)[3] != 0).any()


def test_load_is_summed_over_the_micro_batches_of_a_step(model):
    metrics = update(model, [{1: [8, 0, 0, 0, 0, 0, 0, 0]}, {1: [0, 1, 1, 1, 1, 1, 1, 10]}])
    assert metrics.load == [[8, 1, 1, 1, 1, 1, 1, 10]]
    assert biases(model)[1].tolist() == [-0.25] + [0.25] * 6 + [-0.25]


def test_load_of_one_step_does_not_reach_the_next(model):
    balance = ExpertBalance(model)
    for _ in range(2):
        balance.collect({1: paddle.to_tensor(LOAD)})
        metrics = balance.update(full_subnet(model.config), 0.1)
    assert metrics.load == [LOAD]


def test_masked_experts_keep_their_bias_and_do_not_count_in_the_mean(model):
    keep = np.ones([4, 8], bool)
    keep[1, 4:] = False
    metrics = update(model, [{1: [6, 2, 3, 5, 0, 0, 0, 0]}], make_subnet(model.config, (0, 1, 2), keep, 2))
    assert biases(model)[1].tolist() == [-0.25, 0.25, 0.25, -0.25, 0, 0, 0, 0]
    assert metrics.max_over_mean == [1.5]


def test_max_over_mean_and_entropy_follow_their_formulas(model):
    metrics = update(model, [{1: LOAD, 2: [5] * 8, 3: [40] + [0] * 7}])
    assert metrics.max_over_mean == [2.5, 1.0, 8.0]
    share = [n / 32 for n in LOAD if n]
    assert metrics.entropy == pytest.approx([-sum(p * math.log(p) for p in share) / math.log(8), 1.0, 0.0])


def test_the_window_sums_steps_until_it_is_taken(model):
    balance, subnet = ExpertBalance(model), full_subnet(model.config)
    for loads in ({1: LOAD}, {1: [0, 8, 0, 0, 0, 0, 0, 0], 2: [5] * 8}):
        balance.collect({layer_id: paddle.to_tensor(load) for layer_id, load in loads.items()})
        balance.update(subnet, 0.1)
    window = balance.take_window()
    assert window.load == [[10, 8, 4, 4, 2, 4, 7, 1], [5] * 8, [0] * 8]
    assert window.max_over_mean == [2.0, 1.0, None] and window.entropy[1:] == [1.0, None]
    assert balance.take_window().max_over_mean == [None] * 3


def test_entropy_of_a_single_expert_is_one():
    assert normalized_entropy(np.array([7])) == 1.0


def test_repeated_updates_even_out_a_lopsided_router(model):
    """The mechanism as a whole: the router sends tokens by its bias, and the bias follows the load."""
    gate = model.blocks()[1].mlp.gate
    gate.weight.set_value(np.random.normal(0, 0.2, gate.weight.shape).astype(np.float32))
    tokens = paddle.randn([512, 32]) + 0.5  # a common part that favours a few experts
    balance, subnet = ExpertBalance(model), full_subnet(model.config)
    ratios = []
    for _ in range(300):
        ids = gate(tokens, subnet.expert_mask[1], 2).topk_ids
        balance.collect({1: paddle.bincount(ids.flatten(), minlength=8)})
        ratios += balance.update(subnet, 0.002).max_over_mean
    assert ratios[0] > 1.5 and ratios[-1] < 1.2
