"""Training in stages of growing context, as the report's 8K, 32K and 128K (§3.2), in one command and in pieces."""

import copy
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.parallel.media_run import ELASTIC, write_run
from tests.parallel.test_media_run import train
from tests.runs import losses, records

pytestmark = pytest.mark.multiproc
STEPS = 6  # of each stage
LENGTHS = (96, 192, 384)
ROWS = (10, 5, 4)


def stages(first: dict) -> list[dict]:
    """Each with its own schedule, batch, bias speed, weight of the prediction block, draws and bits."""
    own = [
        {"learning_rate": 1e-3, "expert_bias_speed": 1e-3, "mtp_loss_weight": 0.3, "vision": {"switches": [switch(4)]}},
        {"learning_rate": 1e-3, "min_learning_rate": 5e-4, "mtp_loss_weight": 0.1, "vision": {"switches": [switch(6)]}},
        {"learning_rate": 5e-4, "min_learning_rate": 1e-4, "mtp_loss_weight": 0.1, "expert_bias_speed": 1e-4},
    ]
    found = []
    for name, length, rows, settings in zip(("short", "long", "longest"), LENGTHS, ROWS, own, strict=True):
        tokens = length * rows
        sizes = {"name": name, "max_seq_len": length, "batch_tokens": tokens, "num_tokens": tokens * STEPS}
        schedule = {"lr_schedule": "wsd" if name == "short" else "cosine", "warmup_steps": 2 * (name == "short")}
        found.append(first | sizes | schedule | settings)
    found[2]["elastic"] = ELASTIC | {"depth_probability": 0.0}
    return found


def switch(bits: int) -> dict:
    return {"step": 0, "bits": bits}


@pytest.fixture(scope="module")
def run_file(tmp_path_factory) -> Path:
    path = write_run(tmp_path_factory.mktemp("staged"))
    tree = yaml.safe_load(path.read_text())
    first = {key: value for key, value in tree["stages"][0].items() if key != "decay_fraction"}
    tree["stages"] = [copy.deepcopy(stage) for stage in stages(first)]  # nothing twice, which YAML would point at
    tree["train"]["save_steps"] = 0
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def one(run_file) -> Path:
    return train(run_file, run_file.parent / "one", 1, [])


def test_one_command_goes_through_all_stages_with_their_own_settings(one):
    steps = records(one, "train")
    assert [record["stage"] for record in steps] == ["short"] * STEPS + ["long"] * STEPS + ["longest"] * STEPS
    sizes = [record["batch_tokens"] for record in steps]
    assert sizes == [length * rows for length, rows in zip(LENGTHS, ROWS, strict=True) for _ in range(STEPS)]
    assert [record["vision_bits"] for record in steps] == [4] * STEPS + [6] * 2 * STEPS
    weights = [record["modalities"]["mtp"]["weight"] for record in steps]
    assert weights == [0.3] * STEPS + [0.1] * 2 * STEPS
    rates = [record["lr"] for record in steps]
    assert rates[0] < rates[1] == rates[STEPS - 1] and (np.diff(rates[STEPS:]) <= 0).all()
    assert rates[STEPS] <= 1e-3 and rates[2 * STEPS] <= 5e-4 and rates[-1] > 1e-4
    assert {record["subnet"]["layers"] for record in steps[2 * STEPS :]} == {5}


# (steps done when it stops, processes, `parallel:`): inside a stage, between two, and on to the end
PIECES = {
    "inside and between": [(3, 1, []), (STEPS, 1, []), (2 * STEPS + 1, 1, []), (0, 1, [])],
    "rows over two": [(0, 2, ["parallel.context=2"])],
    "other layouts": [
        (STEPS, 2, ["parallel.expert=2"]),
        (8, 2, ["parallel.pipeline=2"]),
        (0, 2, ["parallel.context=2"]),
    ],
}


@pytest.mark.parametrize(
    "name", [name if name == "inside and between" else pytest.param(name, marks=pytest.mark.slow) for name in PIECES]
)
def test_resumed_inside_and_between_stages_it_learns_the_same(run_file, one, name, tmp_path):
    folder, pieces = tmp_path / "run", PIECES[name]
    for number, (steps, processes, settings) in enumerate(pieces):
        options = [*settings, f"train.max_steps={steps}"]
        train(run_file, folder, processes, options, *(["--resume", "auto"] if number else []))
    is_exact = all(processes == 1 for _, processes, _ in pieces)
    np.testing.assert_allclose(losses(folder), losses(one), rtol=0 if is_exact else 1e-5)
