import numpy as np

from ernie5.tokenizers.schedule import warmup_cosine


def test_the_learning_rate_rises_in_the_warmup_and_falls_by_half_a_cosine():
    shares = [warmup_cosine(step, steps=24, warmup=4) for step in (0, 1, 3, 4, 14, 24)]
    np.testing.assert_allclose(shares, [0.25, 0.5, 1.0, 1.0, (1 + 0.05) / 2, 0.05], atol=1e-9)


def test_the_warmup_takes_at_most_half_of_the_steps():
    assert [warmup_cosine(step, steps=4, warmup=100) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]
