from dataclasses import replace
from math import prod

import pytest

from ernie5.config.load import load_model_config
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
from ernie5.planning.tensors import RankParameters, rank_parameters
from tests.planning.cases import MODEL, STAGE, VARIANTS, case
from tests.runs import ROOT

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, EXPERTS, TOP_K, FFN, DENSE_FFN, VOCAB, SEQ = 24, 8, 4, 8, 16, 3, 20, 40, 96, 64
LAYOUT = {"tensor": 2, "pipeline": 2, "context": 2, "data": 2, "expert": 4, "sharding": 2}


def saved_tensors(routes: bool, a: int, m: int) -> list[tuple[int, ...]]:
    """Shape and item size of everything that one layer keeps under LAYOUT, listed by hand."""
    tensor, context, row = 2, 2, SEQ
    tokens = row // context  # of the tensor group
    own, heads, kv_heads = tokens // tensor, HEADS // tensor, KV_HEADS // tensor
    tensors = [(own, HIDDEN, a)] * 2  # inputs of both norms
    tensors += [(tokens, HIDDEN, a)]  # input of attention, gathered
    tensors += [(tokens, heads, HEAD_DIM, a)] * 2 + [(tokens, heads, 4)]  # queries, output, log-sum-exp
    tensors += [(row, kv_heads, HEAD_DIM, a)] * 2  # keys and values, of the whole row
    width = FFN if routes else DENSE_FFN
    tensors += [(tokens, HIDDEN, a), (tokens, 2 * width // tensor, a), (tokens, width // tensor, m)]
    if not routes:
        return tensors
    tensors += [(own, HIDDEN, 4), (own, EXPERTS, 4)]  # the router's input and scores
    tensors += [(own * TOP_K, HIDDEN, m), (own * TOP_K, 2 * FFN, a)]
    return [*tensors, (own, TOP_K, 4), (own, TOP_K, 8), (own, TOP_K, 8)]  # weights, experts, places


@pytest.mark.parametrize("precision", NUMBERS)
@pytest.mark.parametrize("routes", [True, False])
def test_a_layer_keeps_the_tensors_listed_by_hand(routes: bool, precision: str):
    one, numbers = case(policy=Policy(precision=precision), **LAYOUT), NUMBERS[precision]
    listed = saved_tensors(routes, numbers.activation, numbers.mlp_input)
    assert layer_activation_bytes(one, routes) == sum(prod(shape) for shape in listed)


def test_router_and_shared_experts_read_one_tensor_where_it_is_float32_and_whole():
    shared = {
        precision: layer_activation_bytes(case(policy=Policy(precision=precision)), True)
        - layer_activation_bytes(case(VARIANTS["unshared"], policy=Policy(precision=precision)), True)
        for precision in ("float32", "bfloat16")
    }
    assert shared == {"float32": SEQ * 3 * FFN * 4, "bfloat16": SEQ * (HIDDEN + 3 * FFN) * 2}


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


def test_of_what_several_have_each_owns_an_even_share():
    parameters = RankParameters(cut=20, whole=3, tied=9, experts=15, frozen=100)

    def owned(**degrees: int) -> float:
        return optimizer_bytes(parameters, Layout(**degrees), Policy()) / 12

    assert owned(data=4) == 20 + 3 + 9 + 15
    # The second of two has the odd elements; experts are another data rank's neighbour's alone.
    assert owned(data=4, sharding=2, expert=2) == 10 + 2 + 5 + 15
    assert owned(data=4, sharding=4, expert=1) == 5 + 1 + 3 + 4
    assert owned(data=4, sharding=4, expert=2) == 5 + 1 + 3 + 8  # two of the four have the same experts


def test_the_fullest_owner_has_a_share_and_at_most_an_element_of_each_kind_more():
    one = case(VARIANTS["all_sparse"], pipeline=2, data=8, expert=4, sharding=8)
    for rank in range(2):
        parameters = one.parameters(rank)
        even = (parameters.cut + parameters.whole + parameters.tied) / 8 + parameters.experts / 2
        assert even <= rank_memory(one, rank).optimizer / 12 < even + 4


def test_the_report_s_layout_has_no_owner_of_more_than_its_share():
    model = load_model_config(ROOT / "configs/model/full_2p4t.yaml")
    layout = Layout(tensor=4, pipeline=12, virtual_stages=2, expert=64, data=48, sharding=48)
    for rank in range(layout.pipeline):
        parameters = rank_parameters(model, layout, 8192, rank)
        dense = parameters.cut + parameters.whole + parameters.tied
        even = dense / 48 + parameters.experts / layout.expert_sharding
        assert optimizer_bytes(parameters, layout, Policy()) / 12 == pytest.approx(even, abs=4)
    assert layout.expert_sharding == 3


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
