"""What `parallel:` refuses before anything is built."""

import pytest

from ernie5.config.load import load_config
from ernie5.errors import UserError
from tests.runs import TINY

REFUSED = {
    "parallel.tensor=2": "parallel.tensor is 2, but so far a model can be shared by `expert` and by data alone",
    "parallel.pipeline=2": "parallel.pipeline is 2, but so far",
    "parallel.context=2": "parallel.context is 2, but so far",
    "parallel.sharding=2": "parallel.sharding is 2, but so far",
    "parallel.expert=0": "parallel.expert is 0: must be above 0",
    "parallel.expert=3": "parallel.expert is 3, which does not divide the model's 8 experts: set it to a divisor",
    "parallel.experts=2": "expert",  # a typo
}


@pytest.mark.parametrize("setting", REFUSED)
def test_it_is_refused(setting):
    with pytest.raises(UserError, match=REFUSED[setting].replace("(", r"\(")):
        load_config(TINY, [setting])


def test_gradients_of_modalities_are_not_measured_where_experts_are_spread():
    with pytest.raises(UserError, match=r"stages\.0\.balance\.measure_steps is 5, but .*: set it to 0, or parallel\.e"):
        load_config(TINY, ["parallel.expert=2", "stages.0.balance.measure_steps=5"])


def test_experts_may_be_spread():
    assert load_config(TINY, ["parallel.expert=4"]).parallel.expert == 4
