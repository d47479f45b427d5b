import errno
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ernie5.errors import UserError
from ernie5.train import checkpoint as checkpoint_module
from ernie5.train.checkpoint import CheckpointStore, open_checkpoint
from ernie5.train.manifest import verify

CONFIG = "model:\n  name: a\n  moe: {num_experts: 8, num_experts_per_tok: 2}\ntrain: {seed: 1}\n"


def parts(step):
    return {
        "step": step,
        "model_tensors": {"weight": np.full((4, 5), step, np.float32), "expert_bias": np.full(3, -step, np.float32)},
        "optimizer_tensors": {"weight/moment1": np.full((4, 5), step / 2, np.float32)},
        "state": {"step": step, "loader": {"next_sample": 10 * step}},
        "config_text": CONFIG,
    }


def saved_steps(root):
    return sorted(int(path.name.removeprefix("step_")) for path in root.glob("step_*"))


def hidden(root):
    return [path.name for path in root.iterdir() if path.name.startswith(".")]


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.fixture
def store(tmp_path):
    """Two checkpoints, of steps 50 and 100."""
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(**parts(50))
    store.save(**parts(100))
    return store


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "model.bin").write_bytes(b"pieces")
    store = CheckpointStore(tmp_path / "checkpoints")
    path = store.save(**parts(7), tokenizer_dir=tmp_path / "tokenizer", tokenizer_digest="abc")
    found = store.open(path)
    assert path.name == "step_00000007"
    assert (found.step, found.state, found.config_text) == (7, parts(7)["state"], CONFIG)
    assert (found.tokenizer_dir / "model.bin").read_bytes() == b"pieces"
    for given, loaded in (("model_tensors", found.model_tensors()), ("optimizer_tensors", found.optimizer_tensors())):
        assert loaded.keys() == parts(7)[given].keys()
        for name, array in parts(7)[given].items():
            np.testing.assert_array_equal(loaded[name], array, strict=True)


def test_auto_takes_the_newest(store):
    assert store.open("auto").step == 100
    assert store.newest_first()[0].name == "step_00000100"


def test_auto_passes_over_a_damaged_checkpoint_and_says_so(store, caplog):
    flip_a_byte(store.root / "step_00000100" / "model.safetensors")
    assert store.open("auto").step == 50
    assert "step_00000100/model.safetensors: sha256 differs" in caplog.text


def test_auto_without_checkpoints_is_a_user_error(tmp_path):
    for root in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="no checkpoint to resume from"):
            CheckpointStore(root).open("auto")


def test_auto_with_only_damaged_checkpoints_names_the_newest_and_its_cause(store):
    for step in (50, 100):
        flip_a_byte(store.root / f"step_{step:08d}" / "state.json")
    with pytest.raises(UserError, match="step_00000100/state.json: sha256 differs.*no other checkpoint"):
        store.open("auto")


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "config.yaml", "manifest.json"]
)
@pytest.mark.parametrize("damage", [flip_a_byte, truncate, Path.unlink])
def test_a_damaged_file_is_named_and_the_earlier_checkpoint_offered(store, name, damage):
    path = store.root / "step_00000100"
    damage(path / name)
    with pytest.raises(UserError) as caught:
        store.open(path)
    assert name in str(caught.value)
    assert f"resume from {store.root / 'step_00000050'} with --resume PATH" in str(caught.value)


def test_a_file_that_does_not_belong_is_refused_by_name(store):
    (store.root / "step_00000100" / "model-00002-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="model-00002-of-00002.safetensors: not in the checkpoint's manifest"):
        open_checkpoint(store.root / "step_00000100")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"format": "x"},
        {"step": 99},
        {"step": None},
        {"files": []},
        {"files": {}},
        {"files": {"../x": {"sha256": "", "num_bytes": 0}, "state.json": {}, "config.yaml": {}}},
    ],
)
def test_a_manifest_that_says_something_else_is_refused(store, change):
    file = store.root / "step_00000100" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match="manifest"):
        open_checkpoint(file.parent)


def test_a_folder_that_is_no_checkpoint_is_named_and_one_inside_it_offered(store):
    with pytest.raises(UserError, match="not a checkpoint, it has no manifest.json; resume from .*step_00000100"):
        open_checkpoint(store.root.parent)


def test_the_newest_and_the_best_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for step, score in ((10, 3.0), (20, 1.0), (30, 2.0), (40, float("nan")), (50, None)):
        store.save(**parts(step), score=score)
    assert saved_steps(tmp_path) == [20, 40, 50]
    assert store.best().name == "step_00000020"
    store.save(**parts(60), score=0.5)
    assert saved_steps(tmp_path) == [50, 60]


def test_a_score_of_another_measure_is_not_compared_with_the_best(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    for step, score, measure in ((10, 0.1, "4 bits"), (20, 0.5, "8 bits"), (30, 0.6, "8 bits")):
        store.save(**parts(step), score=score, measure=measure)
    assert store.best().name == "step_00000020"


def test_after_a_resume_from_an_earlier_step_the_new_branch_is_the_newest(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for step in (50, 100):
        store.save(**parts(step))
    store = CheckpointStore(tmp_path, keep=2)  # resumed by hand from 50
    store.save(**parts(60))
    assert saved_steps(tmp_path) == [60, 100]
    assert store.open("auto").step == 60
    store.save(**parts(70))
    assert saved_steps(tmp_path) == [60, 70]


def test_a_damaged_checkpoint_is_the_first_to_go(store):
    (store.root / "step_00000100" / "manifest.json").write_text("{")
    store.save(**parts(150))
    assert saved_steps(store.root) == [50, 150]


def test_saving_the_same_step_again_replaces_it(store):
    store.save(**(parts(100) | {"state": {"second": True}}))
    assert store.open("auto").state == {"second": True}
    assert saved_steps(store.root) == [50, 100]
    assert hidden(store.root) == []


def test_a_kill_between_the_two_renames_of_a_replacement_loses_nothing(store, monkeypatch):
    rename = Path.rename

    def killed_after_the_first(self, target):
        if self.name.startswith(".tmp"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        store.save(**parts(100))
    monkeypatch.undo()
    assert saved_steps(store.root) == [50]
    assert CheckpointStore(store.root).open("auto").step == 100
    assert hidden(store.root) == []


def test_leftovers_of_killed_saves_go_when_the_store_is_made(store):
    (store.root / ".tmp-step_00000150-1").mkdir()
    (store.root / ".tmp-step_00000150-1" / "model.safetensors").write_bytes(b"begun")
    (store.root / ".trash-step_00000010").mkdir()
    CheckpointStore(store.root)
    assert hidden(store.root) == []
    assert saved_steps(store.root) == [50, 100]


def test_what_another_process_of_the_run_recovers_at_the_same_time_is_no_error(store, monkeypatch):
    rmtree, rename = shutil.rmtree, Path.rename

    def outrun(work):
        def after_another(*args):
            work(*args)
            work(*args)

        return after_another

    leftover = store.root / ".tmp-step_00000150-1"
    leftover.mkdir()
    newest = store.root / "step_00000100"
    newest.rename(store.root / ".old-step_00000100")
    monkeypatch.setattr(shutil, "rmtree", outrun(rmtree))
    monkeypatch.setattr(Path, "rename", outrun(rename))
    assert CheckpointStore(store.root).open("auto").step == 100
    assert hidden(store.root) == []


def test_a_marker_that_was_cut_short_goes_as_well(store):
    (store.root / ".tmp-best.json").write_text("{")
    CheckpointStore(store.root)
    assert hidden(store.root) == []


def test_a_folder_of_a_checkpoint_that_cannot_be_completed_goes(store):
    temporary = store.begin(150)
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.commit(temporary, {}, step=150, state={"loss": math.nan}, config_text="")
    assert hidden(store.root) == []


def test_shares_of_a_verification_together_read_every_file(store):
    folder = store.newest_first()[0]
    names = list(verify(folder).files)
    assert len(names) >= 4
    for name in names:
        flip_a_byte(folder / name)
        found = []
        for share in range(3):
            try:
                verify(folder, share, 3)
            except UserError as error:
                found.append(str(error))
        flip_a_byte(folder / name)
        assert len(found) == 1 and name in found[0]


def test_a_reader_leaves_a_save_in_progress_alone(store):
    (store.root / ".tmp-step_00000150-1").mkdir()
    open_checkpoint(store.newest_first()[0])
    assert hidden(store.root) == [".tmp-step_00000150-1"]


@pytest.mark.parametrize("function", ["save_tensors", "write_json", "write_manifest", "write_synced", "sync_folder"])
def test_a_full_disk_leaves_the_earlier_checkpoints_and_nothing_else(store, monkeypatch, function):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_module, function, full)
    with pytest.raises(OSError, match="No space left"):
        store.save(**parts(150))
    assert hidden(store.root) == []
    assert saved_steps(store.root) == [50, 100]
    assert store.open("auto").step == 100


SAVE_BEYOND_THE_LIMIT = """
import resource, signal, sys
import numpy as np
from ernie5.errors import exit_cleanly
from ernie5.train.checkpoint import CheckpointStore
def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = CheckpointStore(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    store.save(step=150, model_tensors={"w": np.zeros(10**5)}, optimizer_tensors={}, state={}, config_text="")
exit_cleanly(main)
"""


def test_a_write_that_the_system_refuses_ends_in_one_sentence_with_the_file(store):
    command = [sys.executable, "-c", SAVE_BEYOND_THE_LIMIT, str(store.root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no space left on the disk at ")
    assert "model.safetensors" in done.stderr and done.stderr.count("\n") == 1
    assert hidden(store.root) == []
    assert saved_steps(store.root) == [50, 100]


SAVE_FOR_EVER = """
import itertools, sys
import numpy as np
from ernie5.train.checkpoint import CheckpointStore
store = CheckpointStore(sys.argv[1])
first = store.open("auto").step if store.newest_first() else 0
print(first, flush=True)
for step in itertools.count(first + 1):
    arrays = {f"t{i}": np.full(50_000, step, np.float32) for i in range(4)}
    for _ in range(2):
        store.save(step=step, model_tensors=arrays, optimizer_tensors=arrays, state={"step": step}, config_text="")
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    """The saver is killed at random moments; what it leaves always verifies, and never goes back."""
    delays = random.Random(0)
    step = 0
    for _ in range(6):
        command = [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert int(process.stdout.readline()) >= step
            time.sleep(delays.uniform(0.02, 0.25))
            process.send_signal(signal.SIGKILL)
        store = CheckpointStore(tmp_path)
        for path in store.newest_first():
            found = open_checkpoint(path)
            assert found.state["step"] == found.step == found.model_tensors()["t3"][-1]
        step = max([step, *saved_steps(tmp_path)])
    assert step >= 2


def test_a_model_of_another_shape_is_refused_with_the_key_and_both_values(store):
    found = store.open("auto")
    found.require_model(CONFIG.replace("seed: 1", "seed: 2"))
    with pytest.raises(UserError, match="model.moe.num_experts is 8 there and 4 here"):
        found.require_model(CONFIG.replace("num_experts: 8", "num_experts: 4"))
    with pytest.raises(UserError, match=r"model.moe.extra is '\(absent\)' there and 1 here"):
        found.require_model(CONFIG.replace("num_experts: 8,", "num_experts: 8, extra: 1,"))


def test_another_vocabulary_is_refused_with_both_digests(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(**parts(1), tokenizer_digest="a" * 64)
    found = store.open("auto")
    found.require_tokenizer("a" * 64)
    with pytest.raises(
        UserError, match="another vocabulary, tokenizer digest 'aaaaaaaaaaaa' there and 'bbbbbbbbbbbb' here"
    ):
        found.require_tokenizer("b" * 64)


def test_a_damaged_best_marker_is_counted_anew(store):
    (store.root / "best.json").write_text("{")
    assert store.best() is None
    store.save(**parts(150), score=9.0)
    assert store.best().name == "step_00000150"


def test_keeping_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="train.keep_checkpoints is 0"):
        CheckpointStore(tmp_path, keep=0)


def test_state_that_is_not_json_is_refused_before_anything_is_replaced(store):
    with pytest.raises(ValueError, match="JSON"):
        store.save(**(parts(100) | {"state": {"loss": float("nan")}}))
    assert store.open("auto").state == parts(100)["state"]
