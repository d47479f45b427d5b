"""A refiner small enough to build in milliseconds, and media for it."""

import numpy as np
import paddle
import pytest

from ernie5.config.refiner import DegradationConfig, RefinerConfig
from ernie5.refiner.refiner import Refiner


@pytest.fixture
def config() -> RefinerConfig:
    return RefinerConfig(
        scale=2,
        channels=(8, 16),
        blocks_per_level=1,
        embedding_size=8,
        detail_std=0.1,
        degradation=DegradationConfig(block_size=2),
    )


@pytest.fixture
def refiner(config: RefinerConfig) -> Refiner:
    """With weights drawn at random where training begins with zeros, so that every part has a say."""
    refiner = Refiner(config)
    for parameter in refiner.parameters():
        parameter.set_value(paddle.randn(parameter.shape) * 0.3)
    return refiner


@pytest.fixture
def film() -> np.ndarray:
    """uint8 [3, 8, 12, 3]: a gradient that moves, with noise."""
    rng = np.random.default_rng(3)
    frames = [np.add.outer(np.arange(8) * 9, np.arange(12) * 7 + 11 * i)[..., None] + [0, 20, 40] for i in range(3)]
    return (np.stack(frames) + rng.integers(0, 20, (3, 8, 12, 3))).astype(np.uint8)
