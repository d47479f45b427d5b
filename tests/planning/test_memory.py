from dataclasses import replace
from math import prod

import pytest

from ernie5.planning.assumptions import GRADIENT_BUCKET_BYTES, LOGIT_CHUNK_BYTES, NUMBERS, Policy
from ernie5.planning.layout import Layout
from ernie5.planning.memory import (
    buffer_bytes,
    layer_activation_bytes,
    loss_bytes,
    optimizer_bytes,
    piece_activation_bytes,
    rank_memory,
)
from ernie5.planning.schedule import actions
from tests.planning.cases import MODEL, STAGE, VARIANTS, case

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, EXPERTS, TOP_K, FFN, DENSE_FFN, VOCAB, SEQ = 24, 8, 4, 8, 16, 3, 20, 40, 96, 64
LAYOUT = {"tensor": 2, "pipeline": 2, "context": 2, "data": 2, "expert": 4, "sharding": 2}


def saved_tensors(tokens: int, tensor: int, between: int, a: int, m: int, routes: bool) -> list[tuple[int, ...]]:
    """Shape and item size of everything that one layer keeps, listed by hand."""
    heads, kv_heads, own = HEADS // tensor, KV_HEADS // tensor, tokens // tensor
    tensors = [(between, HIDDEN, a)] * 4  # both norms, in and out
    tensors += [(tokens, heads, HEAD_DIM, a)] * 2 + [(tokens, kv_heads, HEAD_DIM, a)] * 2 + [(tokens, heads, 4)]
    if not routes:
        return [*tensors, (tokens, 2 * DENSE_FFN // tensor, a), (tokens, DENSE_FFN // tensor, m)]
    tensors += [(tokens, 2 * FFN // tensor, a), (tokens, FFN // tensor, m), (between, EXPERTS, 4)]
    return [*tensors, (own * TOP_K, HIDDEN, m), (own * TOP_K, 2 * FFN, a), (own * TOP_K, FFN, m)]


@pytest.mark.parametrize("precision", NUMBERS)
@pytest.mark.parametrize("routes", [True, False])
def test_a_layer_keeps_the_tensors_listed_by_hand(routes: bool, precision: str):
    one = case(policy=Policy(precision=precision), **LAYOUT)
    numbers, tokens = NUMBERS[precision], SEQ // 2
    between = tokens // 2
    listed = saved_tensors(tokens, 2, between, numbers.activation, numbers.mlp_input, routes)
    assert layer_activation_bytes(one, routes) == sum(prod(shape) for shape in listed)


def test_full_recompute_keeps_the_inputs_of_layers():
    one = case(policy=Policy(recompute="full"), **LAYOUT)
    first, last = one.pieces(0)[0], one.pieces(1)[0]
    row = 32 // 2 * HIDDEN * 2
    assert piece_activation_bytes(one, first) == first.layers * row
    assert piece_activation_bytes(one, last) == (last.layers + 1 + 2 * 2) * row  # the block; two norms, two heads


@pytest.mark.parametrize("virtual_stages", [1, 2])
@pytest.mark.parametrize("rank", [0, 1])
def test_activations_are_those_of_the_simulated_schedule(rank: int, virtual_stages: int):
    one = case(**LAYOUT, virtual_stages=virtual_stages)
    kept = [piece_activation_bytes(one, piece) for piece in one.pieces(rank)]
    held = 0.0
    for action in actions(2, virtual_stages, one.microbatches, rank):
        if not action.is_forward:
            break
        held += kept[action.piece]
    assert rank_memory(one, rank).activations == pytest.approx(held)


def test_full_recompute_has_one_whole_layer_besides():
    one = case(policy=Policy(recompute="full"), **LAYOUT)
    inputs = 2 * piece_activation_bytes(one, one.pieces(0)[0])
    assert rank_memory(one, 0).activations == inputs + layer_activation_bytes(one, True)


def test_weights_and_gradients_are_two_bytes_each_and_frozen_ones_have_none():
    one = case(**LAYOUT)
    memory, parameters = rank_memory(one, 0), one.parameters(0)
    assert memory.weights == memory.gradients == 2 * parameters.total
    assert parameters.frozen == 0


def test_optimizer_state_is_spread_over_those_that_have_the_same_parameters():
    one = case(**LAYOUT)
    parameters = one.parameters(0)
    dense, experts = parameters.cut + parameters.whole + parameters.tied, parameters.experts
    state = {
        sharding: optimizer_bytes(parameters, Layout(**LAYOUT | {"sharding": sharding}), Policy())
        for sharding in (1, 2)
    }
    assert state[1] == 12 * (dense + experts)
    assert state[2] == 12 * (dense / 2 + experts / 2)  # 8 GPUs of a stage, experts over 4: two replicas
    all_experts_once = optimizer_bytes(parameters, Layout(**LAYOUT | {"expert": 8}), Policy())
    assert all_experts_once == 12 * (dense / 2 + experts)


def test_states_of_all_ranks_together_are_those_of_the_model_once():
    layout = {"tensor": 1, "pipeline": 2, "data": 8, "expert": 4, "sharding": 8}
    one = case(VARIANTS["all_sparse"], **layout)
    together = sum(8 * rank_memory(one, rank).optimizer for rank in range(2))
    held = [one.parameters(rank) for rank in range(2)]
    parameters = sum(rank.cut + rank.whole + rank.tied for rank in held)
    assert together == pytest.approx(12 * (parameters + 4 * sum(rank.experts for rank in held)))


def test_logits_exist_for_a_chunk_of_rows():
    one = case(**LAYOUT)
    weight = 2 * VOCAB // 2 * HIDDEN * 2  # of the head's gradient, for the backbone and for the block
    assert loss_bytes(one) == 32 * VOCAB // 2 * 2 + weight
    long = replace(STAGE, max_seq_len=2**24, batch_tokens=2**28)
    assert loss_bytes(case(stage=long, **LAYOUT)) == LOGIT_CHUNK_BYTES + weight
    assert (rank_memory(one, 0).loss, rank_memory(one, 1).loss) == (0, loss_bytes(one))


def test_buffers_are_there_for_what_is_sent():
    assert buffer_bytes(case()) == 0
    buckets = 2 * GRADIENT_BUCKET_BYTES
    row = SEQ * HIDDEN * 2
    assert buffer_bytes(case(data=2)) == buckets
    assert buffer_bytes(case(pipeline=2)) == 4 * row
    assert buffer_bytes(case(tensor=2)) == 2 * row + buckets
    assert buffer_bytes(case(context=2)) == 4 * SEQ * KV_HEADS * HEAD_DIM * 2 + buckets
    every_rank = replace(MODEL, moe=replace(MODEL.moe, num_experts_per_tok=16))
    assert buffer_bytes(case(every_rank, data=4, expert=4)) == 2 * 4 * row + buckets


def test_earlier_ranks_of_a_pipeline_keep_more():
    one = case(VARIANTS["all_sparse"], pipeline=8, data=2)
    kept = [rank_memory(one, rank).activations for rank in range(7)]
    layers = [one.pieces(rank)[0].layers for rank in range(7)]
    assert [size / count for size, count in zip(kept, layers, strict=True)] == sorted(
        (size / count for size, count in zip(kept, layers, strict=True)), reverse=True
    )
