"""What `parallel:` refuses before anything is built."""

import pytest

from ernie5.config.load import load_config
from ernie5.errors import UserError
from tests.runs import TINY

REFUSED = {
    "parallel.tensor=3": "parallel.tensor is 3, which does not divide model.attention.num_attention_heads, ",
    "parallel.pipeline=9": "parallel: pipeline 9 x virtual_stages 1 asks for 9 pieces, but the ",
    "parallel.virtual_stages=2": "parallel.virtual_stages is 2, but stages are interleaved from three on and",
    "parallel.context=5": "stages.0.max_seq_len is 64, but under parallel.context 5 and parallel.tensor 1 a row is cut "
    "into 10 equal parts: set it to a multiple of 10",
    "parallel.sharding=0": "parallel.sharding is 0: must be above 0",
    "parallel.expert=0": "parallel.expert is 0: must be above 0",
    "parallel.expert=3": "parallel.expert is 3, which does not divide the model's 8 experts: set it to a divisor",
    "parallel.experts=2": "expert",  # a typo
}


@pytest.mark.parametrize("setting", REFUSED)
def test_it_is_refused(setting):
    with pytest.raises(UserError, match=REFUSED[setting].replace("(", r"\(")):
        load_config(TINY, [setting])


def test_gradients_of_modalities_are_not_measured_where_experts_are_spread():
    with pytest.raises(UserError, match=r"stages\.0\.balance\.measure_steps is 5, but .*: set it to 0"):
        load_config(TINY, ["parallel.expert=2", "stages.0.balance.measure_steps=5"])


def test_experts_may_be_spread():
    assert load_config(TINY, ["parallel.expert=4"]).parallel.expert == 4
