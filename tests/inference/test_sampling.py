"""The distribution of drawn tokens and bits against the one that the settings promise."""

import numpy as np
import pytest

from ernie5.config.schema import GenerationConfig, VisualSamplingConfig
from ernie5.inference.request import Penalties
from ernie5.inference.sampling import guided, is_guided, penalised, sample, sample_bits

LOGITS = np.array([0.3, 2.0, -1.0, 1.2, 0.9, -3.0], np.float32)
DRAWS = 20_000


def settings(temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0) -> GenerationConfig:
    return GenerationConfig(temperature=temperature, top_p=top_p, top_k=top_k)


def expected_distribution(temperature: float, top_p: float, top_k: int) -> np.ndarray:
    """Temperature, then the k likeliest, then the fewest likeliest whose mass reaches p (arXiv:1904.09751 §3.1)."""
    share = np.exp(LOGITS.astype(np.float64) / temperature)
    ranking = np.argsort(-share).tolist()
    if top_k:
        share[ranking[top_k:]] = 0
    share /= share.sum()
    kept, mass = [], 0.0
    for token in ranking:
        if mass >= top_p:
            break
        kept.append(token)
        mass += share[token]
    result = np.zeros_like(share)
    result[kept] = share[kept]
    return result / result.sum()


@pytest.mark.parametrize(
    "temperature, top_p, top_k",
    [(1.0, 1.0, 0), (0.5, 1.0, 0), (2.0, 1.0, 0), (1.0, 0.8, 0), (1.0, 1.0, 3), (1.5, 0.7, 4), (1.0, 1e-9, 0)],
)
def test_draws_follow_the_distribution(temperature, top_p, top_k):
    expected = expected_distribution(temperature, top_p, top_k) * DRAWS
    drawn = sample(np.tile(LOGITS, (DRAWS, 1)), settings(temperature, top_p, top_k), np.random.default_rng(1))
    counts = np.bincount(drawn, minlength=LOGITS.size)
    assert (counts[expected == 0] == 0).all()
    possible = expected > 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square < 25.7  # 5 degrees of freedom: 1 in 10,000


def test_temperature_zero_takes_the_likeliest():
    logits = np.random.normal(size=[50, 9]).astype(np.float32)
    assert (sample(logits, settings(temperature=0), np.random.default_rng(0)) == logits.argmax(-1)).all()


def test_top_k_of_one_takes_the_likeliest():
    logits = np.random.normal(size=[50, 9]).astype(np.float32)
    assert (sample(logits, settings(top_k=1), np.random.default_rng(0)) == logits.argmax(-1)).all()


def test_top_k_beyond_the_vocabulary_keeps_all_of_it():
    drawn = [sample(LOGITS[None], settings(top_k=k), np.random.default_rng(s))[0] for s in range(50) for k in (0, 99)]
    assert drawn[::2] == drawn[1::2]


def test_each_row_is_drawn_from_its_own_logits():
    logits = np.full([3, 4], -1e9, np.float32)
    logits[np.arange(3), [2, 0, 3]] = 0
    assert sample(logits, settings(), np.random.default_rng(0)).tolist() == [2, 0, 3]


def test_the_same_generator_state_draws_the_same():
    logits = np.tile(LOGITS, (100, 1))
    first, second = (sample(logits, settings(), np.random.default_rng(4)) for _ in range(2))
    assert (first == second).all() and (first != sample(logits, settings(), np.random.default_rng(5))).any()


def test_huge_logits_do_not_overflow():
    assert sample(np.array([[1e30, 0, 1e4]], np.float32), settings(temperature=0.1), np.random.default_rng(0)) == [0]


def bit_shares(**settings) -> np.ndarray:
    """How often each bit is 1."""
    logits = np.tile(LOGITS, (DRAWS, 1))
    return sample_bits(logits, VisualSamplingConfig(**settings), np.random.default_rng(0)).mean(0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_bits_are_one_with_the_probability_of_their_log_odds(temperature):
    expected = 1 / (1 + np.exp(-LOGITS.astype(np.float64) / temperature))
    np.testing.assert_allclose(bit_shares(temperature=temperature), expected, atol=0.015)


def test_bit_whose_likelier_value_reaches_top_p_takes_it_and_others_are_drawn():
    # the likelier values have 0.57, 0.88, 0.73, 0.77, 0.71, 0.95
    shares = bit_shares(top_p=0.75)
    assert shares[[1, 3, 5]].tolist() == [1, 1, 0]
    np.testing.assert_allclose(shares[[0, 2, 4]], [0.574, 0.269, 0.711], atol=0.015)


def test_bits_at_temperature_zero_are_the_likelier_values():
    assert bit_shares(temperature=0.0).tolist() == [1, 1, 0, 1, 1, 0]


def test_bits_of_extreme_log_odds_are_certain():
    logits = np.array([[1e30, -1e30, 800.0]], np.float32)
    assert sample_bits(logits, VisualSamplingConfig(temperature=0.1), np.random.default_rng(0)).tolist() == [[1, 0, 1]]


@pytest.mark.parametrize("scale, strength", [(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0)])
def test_guidance_goes_from_the_unconditional_through_the_conditional_and_grows_over_scales(scale, strength):
    conditional, unconditional = np.array([[0.5, -1.0]], np.float32), np.array([[0.25, 2.0]], np.float32)
    config = VisualSamplingConfig(guidance_start=1.0, guidance_end=4.0)
    found = guided(np.concatenate([conditional, unconditional]), scale, 4, config)
    np.testing.assert_allclose(found, (1 - strength) * unconditional + strength * conditional, rtol=1e-6)


def test_guidance_of_one_at_both_ends_needs_no_unconditional_branch():
    ends = [(1.0, 1.0), (1.0, 2.0), (0.0, 1.0)]
    assert [is_guided(VisualSamplingConfig(guidance_start=a, guidance_end=b)) for a, b in ends] == [False, True, True]


def test_penalties_by_their_formulas():
    logits = np.array([2.0, -1.0, 0.5, 3.0], np.float32)
    penalties = Penalties(repetition=2.0, presence=0.25, frequency=0.5)
    found = penalised(logits, penalties, prompt_ids=[1], ids=[3, 3, 0])
    expected = [2.0 / 2 - 0.25 - 0.5, -1.0 * 2, 0.5, 3.0 / 2 - 0.25 - 2 * 0.5]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert logits.tolist() == [2.0, -1.0, 0.5, 3.0]
    assert penalised(logits, Penalties(), [1], [3]) is logits
