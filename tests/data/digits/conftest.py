from pathlib import Path

import pytest

from ernie5.data.digits.bank import SpeechConfig
from ernie5.data.digits.world import WorldConfig, make_world

SMALL = WorldConfig(
    seed=3, num_train=600, num_validation=60, num_test=300, speech=SpeechConfig(renditions=1, speakers=2)
)


@pytest.fixture(scope="package")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digit world of a few hundred samples."""
    folder = tmp_path_factory.mktemp("world") / "digits"
    make_world(folder, SMALL)
    return folder
