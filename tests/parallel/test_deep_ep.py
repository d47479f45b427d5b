"""When DeepEP is taken, and why not."""

from types import SimpleNamespace

import paddle
import pytest

from ernie5.errors import UserError
from ernie5.parallel import deep_ep
from ernie5.parallel.deep_ep import DeepEPDispatcher, choose_dispatcher
from ernie5.parallel.expert_dispatcher import ExpertParallelDispatcher

GOOD = {"processes": 8, "hidden_size": 2048, "precision": "bfloat16"}


@pytest.fixture
def installed(monkeypatch):
    """A Paddle for CUDA, whose DeepEP knows 2, 4 and 8 processes."""

    def config(processes):
        assert processes in (2, 4, 8)

    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    library = SimpleNamespace(Buffer=SimpleNamespace(get_dispatch_config=config))
    monkeypatch.setattr(deep_ep, "_library", lambda: library)


def test_it_is_taken_where_it_works(installed):
    assert choose_dispatcher("auto", **GOOD) == (DeepEPDispatcher, "DeepEP")
    assert choose_dispatcher("deep_ep", **GOOD) == (DeepEPDispatcher, "DeepEP")


def test_it_is_not_taken_where_it_is_not_wanted_or_nothing_travels(installed):
    assert choose_dispatcher("all_to_all", **GOOD) == (ExpertParallelDispatcher, "all-to-all")
    assert choose_dispatcher("deep_ep", **GOOD | {"processes": 1})[0] is ExpertParallelDispatcher


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"processes": 6}, "it has no setting for 6 processes"),
        ({"precision": "float32"}, "it sends bfloat16, and train.precision is float32"),
        ({"hidden_size": 2000}, "hidden_size is 2000, not a multiple of 256"),
    ],
)
def test_what_it_does_not_take_goes_by_all_to_all_and_says_so(installed, change, reason):
    assert choose_dispatcher("auto", **GOOD | change) == (
        ExpertParallelDispatcher,
        f"all-to-all, not DeepEP: {reason}",
    )
    with pytest.raises(UserError, match=f"parallel.dispatcher is deep_ep, but {reason}; set it to auto or all_to_all"):
        choose_dispatcher("deep_ep", **GOOD | change)


def test_a_paddle_without_cuda_has_none():
    if paddle.is_compiled_with_cuda():
        pytest.skip("this Paddle has CUDA")
    assert choose_dispatcher("auto", **GOOD)[1] == "all-to-all, not DeepEP: this Paddle is built without CUDA"


def test_a_paddle_without_the_library_says_so(monkeypatch):
    def missing():
        raise ImportError("no module named deep_ep")

    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(deep_ep, "_library", missing)
    assert "has no DeepEP (no module named deep_ep)" in choose_dispatcher("auto", **GOOD)[1]
