"""Learning rate and batch size against values worked out by hand."""

import math
from argparse import Namespace
from contextlib import nullcontext

import pytest

from ernie5.config.load import load_config
from ernie5.config.schema import StageConfig
from ernie5.errors import UserError
from ernie5.parallel.mesh import make_mesh
from ernie5.train.schedule import batch_rows, check_batches, learning_rate, steps_left
from tests.runs import TINY
from tools.train import supervise

PEAK, FLOOR = 1e-3, 1e-4


def stage(**changes) -> StageConfig:
    settings = dict(name="s", max_seq_len=10, num_tokens=10_000, batch_tokens=100, learning_rate=PEAK)
    return StageConfig(**settings | {"min_learning_rate": FLOOR} | changes)


@pytest.mark.parametrize("step, share", [(0, 0.25), (1, 0.5), (2, 0.75), (3, 1.0), (4, 1.0)])
def test_warmup_rises_in_equal_steps_to_the_peak(step, share):
    assert learning_rate(stage(warmup_steps=4), step, step * 100) == pytest.approx(share * PEAK)


@pytest.mark.parametrize(
    "tokens, expected",
    [
        (0, PEAK),
        (7_999, PEAK),
        (8_000, PEAK),
        (8_500, FLOOR + 9e-4 * 0.5),  # a quarter of the decay: 1 - sqrt(1/4)
        (9_280, FLOOR + 9e-4 * 0.2),  # 0.64 of it
        (10_000, FLOOR),
        (12_000, FLOOR),
    ],
)
def test_wsd_stays_at_the_peak_and_falls_by_the_square_root_at_the_end(tokens, expected):
    assert learning_rate(stage(decay_fraction=0.2), 100, tokens) == pytest.approx(expected)


def test_wsd_without_a_decay_never_falls():
    assert learning_rate(stage(), 100, 10_000) == PEAK


@pytest.mark.parametrize(
    "tokens, expected",
    [(0, PEAK), (2_500, FLOOR + 9e-4 * (2 + math.sqrt(2)) / 4), (5_000, 5.5e-4), (10_000, FLOOR), (11_000, FLOOR)],
)
def test_cosine_falls_over_the_whole_stage(tokens, expected):
    assert learning_rate(stage(lr_schedule="cosine"), 100, tokens) == pytest.approx(expected)


RAMP = dict(batch_start_tokens=20, batch_ramp_tokens=1_000)


@pytest.mark.parametrize("tokens, rows", [(0, 2), (124, 2), (125, 3), (500, 6), (999, 9), (1_000, 10), (9_999, 10)])
def test_batch_grows_linearly_by_whole_rows(tokens, rows):
    assert batch_rows(stage(**RAMP), tokens) == rows


def test_batch_without_a_ramp_is_full_from_the_start():
    assert batch_rows(stage(), 0) == 10


@pytest.mark.parametrize(
    "changes",
    [{}, RAMP, {"num_tokens": 10_050}, RAMP | {"num_tokens": 300}, RAMP | {"batch_ramp_tokens": 7}]
    + [{"num_tokens": 1}, RAMP | {"batch_start_tokens": 100}],
    ids=str,
)
@pytest.mark.parametrize("done", [0, 130, 9_990, 20_000])
def test_steps_left_are_those_a_run_takes(changes, done):
    settings = stage(**changes)
    tokens, steps = done, 0
    while tokens < settings.num_tokens:
        tokens += batch_rows(settings, tokens) * settings.max_seq_len
        steps += 1
    assert steps_left(settings, done) == steps


def test_steps_left_of_a_long_stage_are_counted_at_once():
    assert steps_left(stage(num_tokens=10**15, batch_tokens=10_000), 0) == 10**11


ROWS = {  # of batches of four rows, each a micro-batch of its own: processes, degrees -> what is wrong
    "one each": (4, {}, ""),
    "too few": (5, {}, "stages.0.batch_tokens: makes batches of 4 rows of 64 tokens for 5 processes: raise it to 320"),
    "shared by a stage": (8, {"tensor": 2}, ""),
    "interleaved": (3, {"pipeline": 3, "virtual_stages": 2}, "3 interleaved stages take 6 passes .* raise it to 384"),
}


@pytest.mark.parametrize("case", ROWS)
def test_who_can_share_the_batches_is_one_rule_for_a_run_and_for_its_restarts(case, monkeypatch):
    processes, degrees, said = ROWS[case]
    options = ["stages.0.batch_tokens=256", "stages.0.micro_batch_rows=1", "model.num_hidden_layers=6"]
    config = load_config(TINY, options + [f"parallel.{name}={degree}" for name, degree in degrees.items()])
    with pytest.raises(UserError, match=said) if said else nullcontext():
        check_batches(config, make_mesh(processes, config.parallel))
    seen = {}
    monkeypatch.setattr("ernie5.parallel.supervisor.supervise", lambda *_, fits, **__: seen.update(fits=fits))
    supervise(config, Namespace(nproc_per_node=8, min_nproc=1, max_restarts=1))
    assert seen["fits"](processes) == (not said)
    assert not seen["fits"](7 if degrees else 9)  # no mesh, or a row too few
