"""Weights of the modalities' losses against numbers worked out by hand, and in a run."""

import json

import pytest

from ernie5.config.schema import ModalityBalanceConfig
from ernie5.inference.show import show
from ernie5.train.modality_balance import averaged, balance_weights
from ernie5.train.run import run
from tests.runs import losses, records
from tests.vision_runs import vision_config

POSTERIOR = ModalityBalanceConfig(method="posterior")
DECAY = 0.75
SETTINGS = ("stages.0.balance.method=posterior", f"stages.0.balance.decay={DECAY}", "stages.0.vision.loss_weight=0.5")


def test_average_begins_with_the_first_loss_and_decays_from_there():
    averages = averaged({}, {"text": 4.0, "vision": None, "audio": 2.0}, 0.75)
    assert averages == {"text": 4.0, "audio": 2.0}
    averages = averaged(averages, {"text": 2.0, "vision": 0.5, "audio": 1.0}, 0.75)
    assert averages == {"text": 3.5, "vision": 0.5, "audio": 1.75}  # 0.75 * 4 + 0.25 * 2, 0.75 * 2 + 0.25 * 1


def test_a_modality_that_a_step_lacks_keeps_its_average():
    assert averaged({"vision": 0.5}, {"text": 1.0, "vision": None}, 0.75) == {"vision": 0.5, "text": 1.0}


def test_every_modality_s_weighted_loss_is_as_large_as_the_text_s():
    averages = {"text": 3.0, "mtp": 6.0, "vision": 0.6, "audio": 1.5}
    weights = balance_weights(averages, POSTERIOR)
    assert weights == pytest.approx({"text": 1.0, "vision": 5.0, "audio": 2.0})
    assert all(weights[name] * averages[name] == pytest.approx(3.0) for name in weights)


def test_a_smaller_power_goes_part_of_the_way():
    half = ModalityBalanceConfig(method="posterior", power=0.5)
    weights = balance_weights({"text": 0.16, "vision": 0.64, "audio": 4.0}, half)
    assert weights == pytest.approx({"text": 1.0, "vision": 0.5, "audio": 0.2})  # roots of 1/4 and 1/25


@pytest.mark.parametrize("averages", [{}, {"text": 2.0}, {"vision": 0.5, "audio": 1.0}, {"text": 2.0, "audio": 0.0}])
def test_what_is_not_known_yet_weighs_one(averages):
    assert balance_weights(averages, POSTERIOR) == {"text": 1.0, "vision": 1.0, "audio": 1.0}


def test_without_balance_all_weigh_one():
    none = ModalityBalanceConfig(method="none")
    assert set(balance_weights({"text": 3.0, "vision": 0.5}, none).values()) == {1.0}


def test_objective_of_a_step_has_the_weights_of_the_averages_before_it(tmp_path):
    run(vision_config(tmp_path, *SETTINGS), "", show)
    averages: dict[str, float] = {}
    steps = records(tmp_path / "run", "train")
    for step in steps:
        found = {name: step[f"loss_{name}"] for name in ("text", "vision")}
        factor = averages["text"] / averages["vision"] if averages else 1.0
        assert step["modalities"]["vision"]["weight"] == pytest.approx(0.5 * factor, rel=1e-9)
        assert step["modalities"]["text"]["weight"] == 1.0
        terms = [term["weight"] * term["loss"] for term in step["modalities"].values()]
        assert step["loss"] == pytest.approx(sum(terms), rel=1e-9)
        averages = {n: DECAY * averages[n] + (1 - DECAY) * loss if averages else loss for n, loss in found.items()}
    assert len(steps) == 6 and steps[-1]["modalities"]["vision"]["weight"] > 1


def test_resumed_run_goes_on_with_the_averages_of_its_checkpoint(tmp_path):
    for name in ("whole", "cut"):
        stop = ("train.max_steps=3",) if name == "cut" else ()
        run(vision_config(tmp_path, *SETTINGS, f"train.output_dir={tmp_path / name}", *stop), "", show)
    state = json.loads((tmp_path / "cut" / "checkpoints" / "step_00000003" / "state.json").read_text())
    assert {"text", "vision"} <= set(state["train"]["loss_averages"])
    run(vision_config(tmp_path, *SETTINGS, f"train.output_dir={tmp_path / 'cut'}"), "auto", show)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    weights = [[step["modalities"] for step in records(tmp_path / name, "train")] for name in ("cut", "whole")]
    assert weights[0] == weights[1]
