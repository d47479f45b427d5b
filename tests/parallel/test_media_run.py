"""Four modalities under each layout against one process: twenty steps, elastic draws and prediction block on."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ernie5.model.weights import load_tensors
from tests.parallel.media_run import write_run
from tests.runs import ROOT, losses, overrides, records

pytestmark = pytest.mark.multiproc
LAYOUTS = {  # processes and `parallel:`; the first ones run always
    "sharded optimizer": (2, ["sharding=2"]),
    "context": (2, ["context=2"]),
    "pipeline": (2, ["pipeline=2"]),
}
MIXED = {
    "data": (2, []),
    "tensor": (2, ["tensor=2"]),
    "experts": (2, ["expert=2"]),
    "experts over four": (4, ["expert=4"]),
    "experts over two of four": (4, ["expert=2", "sharding=2"]),
    "experts over eight": (8, ["expert=8"]),
    "optimizer over two of four": (4, ["sharding=2"]),
    "three stages": (3, ["pipeline=3"]),
    "optimizer over three": (3, ["sharding=3"]),
    "stages of data": (4, ["pipeline=2", "sharding=2"]),
    "stages and experts": (4, ["pipeline=2", "expert=2"]),
    "tensor and experts": (4, ["tensor=2", "expert=4", "sharding=2"]),
    "tensor and replicas of experts": (4, ["tensor=2", "expert=2"]),
    "context and tensor": (4, ["context=2", "tensor=2"]),
    "context and experts": (4, ["context=4", "expert=4"]),
    "stages and context": (4, ["pipeline=2", "context=2"]),
    "the report's": (8, ["pipeline=2", "tensor=2", "expert=4", "sharding=2"]),
    "all but data": (8, ["pipeline=2", "context=2", "tensor=2", "expert=4"]),
}
INTERLEAVED = {  # of a model with more layers; ten micro-batches
    "interleaved": (3, ["pipeline=3", "virtual_stages=2"]),
    "interleaved with a remainder": (4, ["pipeline=4", "virtual_stages=2"]),
}
UNPACKED = {  # rows of one sample each: some processes have nothing but padding; the first runs always
    "context and experts": (2, ["context=2", "expert=2"]),
    "tensor and data": (4, ["tensor=2", "sharding=2"]),
    "stages, tensor and data": (8, ["pipeline=2", "tensor=2"]),
    "all but data": (8, ["pipeline=2", "context=2", "tensor=2", "expert=4"]),
}
MORE_LAYERS = ["model.num_hidden_layers=10", "stages.0.elastic.min_layers=6"]


def train(run_file: Path, output_dir: Path, processes: int, settings: list[str], *arguments: str) -> Path:
    options = overrides([f"train.output_dir={output_dir}", *settings])
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "-c", str(run_file), *options, *arguments]
    done = subprocess.run(
        [*command, "--nproc_per_node", str(processes)], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return output_dir


@pytest.fixture(scope="module")
def run_file(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def one(run_file) -> Path:
    return train(run_file, run_file.parent / "one", 1, [])


def assert_same(a: Path, b: Path) -> None:
    assert len(losses(a)) == len(losses(b)) == 20
    np.testing.assert_allclose(losses(b), losses(a), rtol=1e-5)
    of_kinds = [[record["modalities"] for record in records(run, "train")] for run in (a, b)]
    for ours, theirs in zip(*of_kinds, strict=True):
        assert ours.keys() == theirs.keys()
        for name, values in ours.items():
            assert values["loss"] == pytest.approx(theirs[name]["loss"], rel=1e-5), name
    ours, theirs = ({(one["step"], one["complete"]): scores(one) for one in records(run, "eval")} for run in (a, b))
    assert (20, True) in ours
    for when in ours.keys() & theirs.keys():  # a run in parts evaluates behind each
        assert theirs[when] == pytest.approx(ours[when], rel=1e-5)
    ours, theirs = (records(run, "expert_use")[-1] for run in (a, b))
    assert (theirs["layers"], theirs["tokens"]) == (ours["layers"], ours["tokens"])
    for use in zip(ours["shares"], theirs["shares"], strict=True):
        for kind, tokens in ours["tokens"].items():  # a choice may tip over the last digits
            np.testing.assert_allclose(use[1][kind], use[0][kind], atol=2 / tokens)
    for part in ("model", "optimizer"):
        tensors = [load_tensors(run / "checkpoints" / "step_00000020", part) for run in (a, b)]
        assert tensors[0].keys() == tensors[1].keys()
        for name, tensor in tensors[0].items():
            np.testing.assert_allclose(tensors[1][name], tensor, rtol=1e-3, atol=1e-4, err_msg=name)


def scores(record: dict) -> dict[str, float]:
    """Of the whole model and of the member of an "eval" record."""
    found = {"full": record, **record["members"]}
    names = ("loss", "bits_per_byte", "loss_vision", "loss_audio")
    return {f"{member} {name}": score[name] for member, score in found.items() for name in names}


def test_the_run_has_all_modalities_and_draws(one):
    seen = {name for record in records(one, "train") for name in record["modalities"]}
    assert seen == {"text", "mtp", "vision", "audio"}
    assert len({tuple(record["subnet"].values()) for record in records(one, "train")}) > 3


def settings_of(degrees: list[str]) -> list[str]:
    return [f"parallel.{degree}" for degree in degrees]


@pytest.mark.parametrize("layout", [*LAYOUTS, *(pytest.param(name, marks=pytest.mark.slow) for name in MIXED)])
def test_it_learns_what_one_process_learns(run_file, one, layout):
    processes, degrees = (LAYOUTS | MIXED)[layout]
    name = layout.replace(" ", "_").replace("'", "")
    assert_same(one, train(run_file, run_file.parent / name, processes, settings_of(degrees)))


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "degrees"), [(2, ["pipeline=2"]), (8, ["pipeline=2", "expert=4"])])
def test_stages_take_batches_that_are_no_multiple_of_a_micro_batch(run_file, one, processes, degrees):
    options = [*settings_of(degrees), "stages.0.micro_batch_rows=3"]
    assert_same(one, train(run_file, run_file.parent / f"rest_{processes}", processes, options))


@pytest.fixture(scope="module")
def deep(run_file) -> Path:
    return train(run_file, run_file.parent / "deep", 1, MORE_LAYERS)


@pytest.mark.slow
@pytest.mark.parametrize("layout", INTERLEAVED)
def test_interleaved_stages_learn_the_same(run_file, deep, layout):
    processes, degrees = INTERLEAVED[layout]
    folder = run_file.parent / layout.replace(" ", "_")
    assert_same(deep, train(run_file, folder, processes, [*MORE_LAYERS, *settings_of(degrees)]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "layouts",
    [
        ("the report's", "context and tensor", "three stages", "experts"),
        ("tensor and experts", "optimizer over three", "stages of data", "alone"),
    ],
    ids=" - ".join,
)
def test_it_goes_on_in_other_layouts(run_file, one, layouts):
    folder = run_file.parent / f"from_{layouts[0]}".replace(" ", "_").replace("'", "")
    for steps, layout in zip((6, 11, 15, 20), layouts, strict=True):
        processes, degrees = (MIXED | {"alone": (1, [])})[layout]
        options = [*settings_of(degrees), f"train.max_steps={steps}", "train.save_steps=0"]
        train(run_file, folder, processes, options, *(["--resume", "auto"] if folder.exists() else []))
    assert_same(one, folder)


@pytest.fixture(scope="module")
def unpacked(run_file) -> Path:
    return train(run_file, run_file.parent / "unpacked", 1, ["data.packing=false"])


def test_rows_that_are_not_packed_have_all_modalities_and_are_other_rows(one, unpacked):
    seen = {name for record in records(unpacked, "train") for name in record["modalities"]}
    assert seen == {"text", "mtp", "vision", "audio"}
    assert losses(unpacked)[0] != losses(one)[0]


@pytest.mark.slow
@pytest.mark.parametrize("layout", UNPACKED)
def test_without_packing_it_learns_what_one_process_learns(run_file, unpacked, layout):
    processes, degrees = UNPACKED[layout]
    folder = run_file.parent / f"unpacked_{layout.replace(' ', '_').replace(',', '')}"
    assert_same(unpacked, train(run_file, folder, processes, ["data.packing=false", *settings_of(degrees)]))


@pytest.mark.slow
def test_without_packing_it_goes_on_in_other_layouts(run_file, unpacked):
    folder = run_file.parent / "unpacked_changes"
    for steps, layout in ((7, "stages, tensor and data"), (13, "context and experts"), (20, "tensor and data")):
        processes, degrees = UNPACKED[layout]
        options = [*settings_of(degrees), "data.packing=false", f"train.max_steps={steps}", "train.save_steps=0"]
        train(run_file, folder, processes, options, *(["--resume", "auto"] if folder.exists() else []))
    assert_same(unpacked, folder)
