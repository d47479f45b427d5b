"""Draws of sub-networks: addresses, probabilities and ranges; named members."""

import dataclasses

import numpy as np
import pytest

from ernie5.config.schema import ElasticConfig, MemberConfig, ModelConfig
from ernie5.elastic.sampler import draw_subnet, member_subnet
from ernie5.model.subnet import Subnet

DRAWS = 4000
ELASTIC = ElasticConfig(
    depth_probability=0.25,
    min_layers=5,
    keep_first_layers=2,
    keep_last_layers=1,
    width_probability=0.2,
    min_experts=4,
    expert_multiple=2,
    sparsity_probability=0.2,
    min_top_k=2,
)


@pytest.fixture(scope="module")
def model() -> ModelConfig:
    from ernie5.config.schema import AttentionConfig, MoEConfig

    return ModelConfig(
        name="elastic_test",
        vocab_size=96,
        hidden_size=32,
        num_hidden_layers=10,
        attention=AttentionConfig(num_attention_heads=4, num_key_value_heads=2, head_dim=8),
        moe=MoEConfig(num_experts=12, num_experts_per_tok=4, moe_intermediate_size=16),
    )


@pytest.fixture(scope="module")
def draws(model) -> list[Subnet]:
    return [draw_subnet(model, ELASTIC, seed=5, step=step) for step in range(DRAWS)]


def same(first: Subnet, second: Subnet) -> bool:
    masks = (first.experts_kept() == second.experts_kept()).all()
    return first.layer_ids == second.layer_ids and first.top_k == second.top_k and bool(masks)


def depth(subnet: Subnet) -> int:
    return len(subnet.layer_ids)


def widths(subnet: Subnet) -> set[int]:
    return set(subnet.experts_kept().sum(-1).tolist())


def test_a_draw_is_a_function_of_seed_and_step(model, draws):
    np.random.seed(99)
    assert all(same(draw_subnet(model, ELASTIC, 5, step), draws[step]) for step in reversed(range(0, DRAWS, 40)))


def test_a_draw_leaves_the_global_generator_alone(model):
    before = np.random.get_state()[1].copy()
    draw_subnet(model, ELASTIC, 5, 0)
    assert (np.random.get_state()[1] == before).all()


def test_another_seed_draws_another_sequence(model, draws):
    assert not all(same(draw_subnet(model, ELASTIC, 6, step), draws[step]) for step in range(50))


@pytest.mark.parametrize(
    "reduced, probability",
    [
        (lambda s: depth(s) < 10, 0.25),
        (lambda s: widths(s) != {12}, 0.2),
        (lambda s: s.top_k < 4, 0.2),
        (lambda s: depth(s) < 10 and s.top_k < 4, 0.05),  # drawn independently
        (lambda s: widths(s) != {12} and s.top_k < 4, 0.04),
    ],
    ids=["depth", "width", "sparsity", "depth and sparsity", "width and sparsity"],
)
def test_reductions_come_with_their_probability(draws, reduced, probability):
    deviation = np.sqrt(probability * (1 - probability) / DRAWS)
    assert abs(np.mean([reduced(subnet) for subnet in draws]) - probability) < 4 * deviation


def test_every_reduced_depth_comes_equally_often(draws):
    depths = [depth(subnet) for subnet in draws if depth(subnet) < 10]
    counts = np.bincount(depths, minlength=10)[5:]
    assert counts.min() > 0 and len(depths) == counts.sum()
    expected = len(depths) / 5
    assert ((counts - expected) ** 2 / expected).sum() < 23.5  # chi-square of 4 degrees: 1 in 10,000


def test_every_reduced_width_is_a_multiple_in_range_and_the_same_in_all_layers(draws):
    reduced = [widths(subnet) for subnet in draws if widths(subnet) != {12}]
    assert all(len(sizes) == 1 for sizes in reduced)
    assert {size for sizes in reduced for size in sizes} == {4, 6, 8, 10}


def test_every_reduced_top_k_is_in_range(draws):
    assert {subnet.top_k for subnet in draws} == {2, 3, 4}


def test_first_and_last_layers_always_stay_and_layers_keep_their_order(draws):
    for subnet in draws:
        assert subnet.layer_ids[:2] == (0, 1) and subnet.layer_ids[-1] == 9
        assert list(subnet.layer_ids) == sorted(set(subnet.layer_ids))


def test_every_middle_layer_and_every_expert_is_skipped_at_times(draws):
    reduced = [subnet for subnet in draws if depth(subnet) < 10]
    assert {i for subnet in reduced for i in range(10) if i not in subnet.layer_ids} == set(range(2, 9))
    kept = np.stack([subnet.experts_kept() for subnet in draws])
    assert not kept.all(0).any()


def test_layers_draw_experts_of_their_own(draws):
    kept = next(subnet.experts_kept() for subnet in draws if widths(subnet) != {12})
    assert kept.shape == (11, 12) and len(np.unique(kept, axis=0)) > 1


def test_without_probabilities_every_draw_is_the_full_model(model):
    for step in range(50):
        subnet = draw_subnet(model, ElasticConfig(), 0, step)
        assert depth(subnet) == 10 and widths(subnet) == {12} and subnet.top_k == 4


def test_certain_reductions_always_reduce(model):
    certain = dataclasses.replace(ELASTIC, depth_probability=1.0, width_probability=1.0, sparsity_probability=1.0)
    for step in range(50):
        subnet = draw_subnet(model, certain, 0, step)
        assert depth(subnet) < 10 and widths(subnet) != {12} and subnet.top_k < 4


@pytest.mark.parametrize("num_layers, layer_ids", [(0, range(10)), (1, (0,)), (2, (0, 9)), (5, (0, 1, 2, 8, 9))])
def test_a_member_keeps_the_outermost_layers(model, num_layers, layer_ids):
    subnet = member_subnet(model, MemberConfig(name="shallow", num_layers=num_layers))
    assert subnet.layer_ids == tuple(layer_ids)


def test_a_member_keeps_the_first_experts_of_every_layer_and_its_top_k(model):
    subnet = member_subnet(model, MemberConfig(name="narrow", num_experts=5, top_k=3))
    np.testing.assert_array_equal(subnet.experts_kept(), np.tile(np.arange(12) < 5, (11, 1)))
    assert subnet.top_k == 3 and depth(subnet) == 10


def test_a_member_without_sizes_is_the_full_model(model):
    subnet = member_subnet(model, MemberConfig(name="full"))
    assert depth(subnet) == 10 and widths(subnet) == {12} and subnet.top_k == 4
