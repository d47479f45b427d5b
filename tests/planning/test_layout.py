from dataclasses import replace

import pytest

from ernie5.config.schema import AudioConfig
from ernie5.errors import UserError
from ernie5.planning.layout import RULES, Layout, first_refusal, parse_layout, refusals
from tests.planning.cases import CLUSTER, MODEL, STAGE, VARIANTS

GOOD = {"tensor": 2, "pipeline": 2, "data": 4, "expert": 8, "sharding": 4}


def test_a_layout_that_fits_breaks_no_rule():
    assert refusals(Layout(**GOOD), MODEL, STAGE, CLUSTER) == {}
    assert first_refusal(Layout(**GOOD), MODEL, STAGE, CLUSTER) is None


# Rule -> what is changed in the good layout, in the stage and in the number of GPUs, and what the sentence names.
BROKEN: dict[str, tuple[dict, dict, int, list[str]]] = {
    "product of degrees": ({}, {}, 24, ["is 16 GPUs", "cluster has 24"]),
    "tensor within a node": ({"tensor": 4}, {}, 32, ["tensor 4", "6 GPUs"]),
    "tensor cuts heads": ({"tensor": 8}, {}, 64, ["8", "4 key-value heads"]),
    "pieces and layers": ({"pipeline": 4, "virtual_stages": 3}, {}, 32, ["12 pieces", "8 layers", "at most 9"]),
    "experts over GPUs": ({"data": 16, "expert": 32}, {}, 64, ["32", "16 experts"]),
    "expert group": ({"expert": 16}, {}, 16, ["expert 16", "8 GPUs"]),
    "sharding divides data": ({"sharding": 3}, {}, 16, ["sharding 3", "data 4"]),
    "batch over data": ({}, {"batch_tokens": 64 * 47}, 16, ["47 rows", "data 4"]),
    "interleaving": (
        {"pipeline": 4, "virtual_stages": 2},
        {"batch_tokens": 64 * 28},
        32,
        ["7 forward passes", "2 x pipeline 4"],
    ),
    "row over context": ({"context": 2}, {"max_seq_len": 68, "batch_tokens": 68 * 48}, 32, ["68", "2 x context 2"]),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_named_in_one_sentence(rule: str):
    degrees, stage, gpus, words = BROKEN[rule]
    layout = Layout(**GOOD | degrees)
    cluster = replace(CLUSTER, gpus=gpus, gpus_per_node=6 if rule == "tensor within a node" else 8)
    found = refusals(layout, MODEL, replace(STAGE, **stage), cluster)
    assert list(found) == [rule]
    assert all(word in found[rule] for word in words), found[rule]
    assert first_refusal(layout, MODEL, replace(STAGE, **stage), cluster) == rule


def test_the_last_piece_may_have_the_heads_alone_or_all_layers_that_speak():
    nine = Layout(pipeline=9)
    assert "pieces and layers" not in refusals(nine, MODEL, STAGE, CLUSTER)
    spoken = replace(MODEL, audio=AudioConfig(num_codebooks=3))
    assert "at most 6" in refusals(nine, spoken, STAGE, CLUSTER)["pieces and layers"]


def test_experts_lie_on_whole_tensor_groups():
    sentence = refusals(Layout(**GOOD | {"tensor": 4, "data": 2, "sharding": 2, "expert": 2}), MODEL, STAGE, CLUSTER)
    assert "multiple of tensor 4" in sentence["experts over GPUs"]


def test_virtual_stages_need_a_pipeline():
    for pipeline in (1, 2):
        found = refusals(Layout(**GOOD | {"pipeline": pipeline, "virtual_stages": 2}), MODEL, STAGE, CLUSTER)
        assert "above 2" in found["interleaving"]


def test_a_dense_model_has_no_experts_to_spread():
    assert "has none" in refusals(Layout(**GOOD), VARIANTS["dense"], STAGE, CLUSTER)["experts over GPUs"]


def test_tensor_divides_the_widths_that_it_cuts():
    odd = replace(MODEL, vocab_size=97, intermediate_size=41, moe=replace(MODEL.moe, moe_intermediate_size=19))
    sentence = refusals(Layout(**GOOD), odd, STAGE, CLUSTER)["tensor cuts heads"]
    assert all(size in sentence for size in ("97 rows", "41 columns", "19 columns"))


def test_every_broken_rule_is_told():
    assert len(refusals(Layout(**GOOD | {"data": 5, "sharding": 3}), MODEL, STAGE, CLUSTER)) >= 3


def test_every_rule_has_a_test():
    assert list(RULES) == list(BROKEN)


def test_what_is_left_out_of_a_layout_follows_from_the_rest():
    expected = Layout(tensor=2, pipeline=2, data=4, sharding=4)
    assert parse_layout("tensor=2, pipeline=2", CLUSTER) == expected
    assert parse_layout("tensor=2", CLUSTER) == Layout(tensor=2, data=8, sharding=8)
    assert parse_layout("", CLUSTER) == Layout(data=16, sharding=16)


@pytest.mark.parametrize("text", ["tensors=2", "tensor=0", "tensor=two", "tensor"])
def test_a_misspelt_layout_is_an_error(text: str):
    with pytest.raises(UserError, match="--layout"):
        parse_layout(text, CLUSTER)


def test_experts_states_are_spread_over_neighbours_that_have_the_same():
    layout = Layout(tensor=2, data=12, sharding=12, expert=8)  # the same experts on each fourth place of the data axis
    assert (layout.expert_replicas, layout.expert_sharding) == (3, 3)
    assert Layout(tensor=2, data=12, sharding=6, expert=8).expert_sharding == 1  # runs of one and of two
    assert Layout(tensor=2, data=12, sharding=1, expert=8).expert_sharding == 1
    assert Layout(context=2, data=6, sharding=6, expert=3).expert_sharding == 2
