from dataclasses import replace
from itertools import combinations

import pytest

from ernie5.planning.assumptions import Policy
from ernie5.planning.schedule import actions
from ernie5.planning.traffic import rank_traffic, zero_traffic
from tests.planning.cases import CLUSTER, MODEL, VARIANTS, case

HIDDEN, KV_WIDTH, SEQ, EXPERTS, TOP_K = 24, 4 * 8, 64, 16, 3
ONE_NODE = replace(CLUSTER, gpus_per_node=64)


def ring(ranks: int, size: float) -> float:
    """Bytes one rank sends in a reduce-scatter, or an all-gather, of `size` bytes: ranks - 1 shards."""
    return sum(size / ranks for _ in range(ranks - 1))


def test_one_gpu_sends_nothing():
    flows = rank_traffic(case(), CLUSTER, 0)
    assert list(flows) == ["tensor", "context", "expert", "pipeline", "data"]
    assert all(flow.total == flow.least == 0 for flow in flows.values())


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_tensor_ranks_send_the_collectives_listed_by_hand(recompute: str):
    one = case(policy=Policy(recompute=recompute), tensor=4)
    gather = ring(4, SEQ * HIDDEN * 2)
    dense, routing = 1, 8  # the last of them is the prediction block, which routes
    products = dense + routing + dense + routing  # attention of all, dense MLP or shared expert of all
    product = (4 + 2 * (recompute == "full")) * gather  # gather and scatter, and again for the gradients
    labels, numbers = 3 * SEQ / 4 * (8 + 4), 3 * SEQ * (4 + 8)  # to three others; of own tokens, and of all
    heads = 2 * (2 * gather + labels + numbers)
    expected = one.microbatches * (products * product + heads)
    assert rank_traffic(one, CLUSTER, 0)["tensor"].total == pytest.approx(expected)


@pytest.mark.parametrize("expert", [2, 4, 16])
def test_rows_to_experts_are_those_of_all_choices_counted(expert: int):
    one = case(data=16, expert=expert)
    choices = list(combinations(range(EXPERTS), TOP_K))
    owner = [chosen // (EXPERTS // expert) for chosen in range(EXPERTS)]
    away = sum(len({owner[chosen] for chosen in choice} - {0}) for choice in choices) / len(choices)
    away_everywhere = sum(  # from any rank, since a rank is in the set as often as every other
        len({owner[chosen] for chosen in choice} - {rank}) for choice in choices for rank in range(expert)
    ) / (len(choices) * expert)
    assert away == pytest.approx(away_everywhere)
    row = 4 * HIDDEN * 2 + TOP_K * (8 + 4 + 4)
    counts = 8 * (expert - 1)
    flow = rank_traffic(one, ONE_NODE, 0)["expert"]
    calls = one.microbatches * 8  # layers that route, the block among them
    assert flow.total == pytest.approx(calls * (SEQ * away * row + counts))
    assert flow.least == pytest.approx(calls * SEQ * away * 4 * HIDDEN * 2)


def test_tensor_ranks_share_the_tokens_that_go_to_experts():
    whole = rank_traffic(case(data=4, expert=4), CLUSTER, 0)["expert"]
    cut = rank_traffic(case(tensor=2, data=4, expert=4), CLUSTER, 0)["expert"]
    assert cut.least == whole.least / 2


def test_recompute_sends_rows_forward_again():
    plain, again = (
        rank_traffic(case(policy=Policy(recompute=kind), data=4, expert=4), CLUSTER, 0)["expert"]
        for kind in ("none", "full")
    )
    forward = 2 * HIDDEN * 2 + TOP_K * 12
    backward = 2 * HIDDEN * 2 + TOP_K * 4
    counts = 8 * 3 * 8 * 12  # bytes of a pass: 8 to each of 3 peers, 8 layers, 12 microbatches
    assert (again.total - 2 * counts) / (plain.total - counts) == pytest.approx(
        (2 * forward + backward) / (forward + backward)
    )
    assert again.least == plain.least


@pytest.mark.parametrize("dispatch", ["rank", "node"])
def test_rows_that_cross_nodes_are_counted_choice_by_choice(dispatch: str):
    node, expert = 4, 16
    one = case(policy=Policy(dispatch=dispatch), data=16, expert=expert)
    choices = list(combinations(range(EXPERTS), TOP_K))
    far = 0
    for choice in choices:  # of a token on rank 0, whose node has the experts 0 to 3
        targets = {chosen // node for chosen in choice} if dispatch == "node" else set(choice)
        far += len({target for target in targets if target >= (1 if dispatch == "node" else node)})
    flow = rank_traffic(one, replace(CLUSTER, gpus_per_node=node), 0)["expert"]
    row, calls = 4 * HIDDEN * 2 + TOP_K * 16, one.microbatches * 8
    assert flow.inter == pytest.approx(calls * (SEQ * far / len(choices) * row + 12 * 8))
    assert flow.total == pytest.approx(rank_traffic(one, ONE_NODE, 0)["expert"].total)


def test_float8_rows_travel_in_one_byte_there_and_two_back():
    moe = case(policy=Policy(precision="float8"), data=4, expert=4)
    plain = case(data=4, expert=4)
    saved = rank_traffic(plain, CLUSTER, 0)["expert"].least - rank_traffic(moe, CLUSTER, 0)["expert"].least
    assert saved / rank_traffic(plain, CLUSTER, 0)["expert"].least == pytest.approx(1 / 8)


@pytest.mark.parametrize("virtual_stages", [1, 2])
@pytest.mark.parametrize("rank", range(4))
def test_pipeline_ranks_send_what_the_schedule_sends(rank: int, virtual_stages: int):
    one = case(pipeline=4, data=4, virtual_stages=virtual_stages)
    last = 4 * virtual_stages - 1
    sent = 0
    for action in actions(4, virtual_stages, one.microbatches, rank):
        piece = action.piece * 4 + rank
        sent += piece != (last if action.is_forward else 0)
    flow = rank_traffic(one, CLUSTER, rank)["pipeline"]
    assert flow.inter == flow.least == sent * SEQ * HIDDEN * 2
    assert flow.intra == 0


def test_tensor_ranks_share_a_pipeline_message():
    whole, cut = (rank_traffic(case(tensor=tensor, pipeline=2), CLUSTER, 0)["pipeline"] for tensor in (1, 4))
    assert whole.total == 4 * cut.total
    assert cut.least == cut.total


@pytest.mark.parametrize("context", [2, 4])
def test_context_ranks_send_chunks_to_those_whose_queries_come_later(context: int):
    one = case(context=context, data=2)
    chunk = SEQ // (2 * context) * 2 * KV_WIDTH * 2
    last = [2 * context - 1 - rank for rank in range(context)]  # the last chunk of each rank
    sent = sum(
        mine <= last[other]
        for rank in range(context)
        for mine in (rank, last[rank])
        for other in range(context)
        if other != rank
    )
    layers, passes = 9, 2
    flow = rank_traffic(one, CLUSTER, 0)["context"]
    assert flow.total == flow.least == pytest.approx(one.microbatches * layers * passes * sent / context * chunk)


@pytest.mark.parametrize(("replicas", "sharding"), [(8, 8), (8, 1), (8, 2), (6, 3), (1, 1)])
def test_gradients_are_reduced_and_weights_gathered(replicas: int, sharding: int):
    flow = zero_traffic(1000, replicas, sharding, Policy())
    size, groups = 2000.0, replicas // sharding
    expected = ring(sharding, size) + 2 * ring(groups, size / sharding) + ring(sharding, size)
    assert flow.total == pytest.approx(expected)
    assert flow.least == pytest.approx(2 * ring(replicas, size))
    assert flow.total == pytest.approx(flow.least)  # whatever the degree of sharding, rings send no byte too many


def test_experts_gradients_stay_with_those_that_have_the_same_experts():
    alone, parameters = case(data=16, expert=16, sharding=16), case().parameters(0)
    dense = parameters.cut + parameters.whole
    assert parameters.tied == 0
    assert rank_traffic(alone, CLUSTER, 0)["data"].total == pytest.approx(2 * ring(16, 2 * dense))
    pairs = case(data=16, expert=8, sharding=16)
    assert rank_traffic(pairs, CLUSTER, 0)["data"].total == pytest.approx(
        2 * ring(16, 2 * dense) + 2 * ring(2, 2 * parameters.experts / 8)
    )


@pytest.mark.parametrize("name", ["mixed", "untied"])
def test_copies_of_the_embedding_exchange_their_gradients(name: str):
    one = case(VARIANTS[name], pipeline=3)
    sent = [rank_traffic(one, CLUSTER, rank)["data"].total for rank in range(3)]
    assert sent == [96 * 24 * 2, 0, 96 * 24 * 2]


def test_a_model_without_block_and_tied_head_has_no_copy():
    alone = replace(MODEL, tie_word_embeddings=False, num_nextn_predict_layers=0)
    assert rank_traffic(case(alone, pipeline=2), CLUSTER, 0)["data"].total == 0


def test_groups_within_a_node_do_not_leave_it():
    inside, outside = (
        rank_traffic(case(tensor=2, context=2, data=4, expert=8, sharding=4), replace(CLUSTER, gpus_per_node=size), 0)
        for size in (16, 2)
    )
    assert all(flow.inter == 0 for flow in inside.values())
    assert all(outside[name].inter > 0 for name in ("context", "expert", "data"))
    assert outside["tensor"].inter == 0
