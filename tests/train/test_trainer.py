"""The loop as a whole, on the tiny run."""

import errno
import time

import numpy as np
import paddle
import pytest

from ernie5.config.load import load_config
from ernie5.errors import Fault, UserError
from ernie5.model.folder import from_pretrained
from ernie5.parallel.data_parallel import ALONE, Ranks
from ernie5.train import saving
from ernie5.train.checkpoint import CheckpointStore
from ernie5.train.gradients import StepGradients
from ernie5.train.run import open_checkpoint
from ernie5.train.trainer import Trainer
from tests.runs import SHORT, TINY, losses, records, train

TWO_STAGES = (
    "stages=[{name: short, max_seq_len: 64, num_tokens: 1280, batch_tokens: 256, micro_batch_rows: 2},"
    " {name: long, max_seq_len: 128, num_tokens: 1536, batch_tokens: 512, batch_start_tokens: 256,"
    " batch_ramp_tokens: 512, lr_schedule: cosine, mtp_loss_weight: 0.1, expert_bias_speed: 1e-4}]"
)


def two_stage_file(tmp_path):
    """The tiny run with a second, longer stage: a run file of its own, since a list is not overridden whole."""
    path = tmp_path / "two_stages.yaml"
    own = "\n".join(line for line in TINY.read_text().splitlines() if not line.startswith("include"))
    model = TINY.parents[1] / "model" / "tiny.yaml"
    name, _, stages = TWO_STAGES.partition("=")
    path.write_text(f"include: [{model}]\n{own}\n{name}: {stages}\n")
    return path


def test_loss_falls_and_the_run_folder_is_complete(tmp_path):
    train(tmp_path)
    steps = records(tmp_path, "train")
    assert [record["step"] for record in steps] == list(range(1, 21))
    texts = [record["loss_text"] for record in steps]
    assert np.mean(texts[-5:]) < np.mean(texts[:5]) - 0.3
    final = records(tmp_path, "eval")[-1]
    assert final["complete"] and final["step"] == 20
    for name in ("config.yaml", "report.html", "checkpoints", "model", "tokenizer", "samples/step_00000020.txt"):
        assert (tmp_path / name).exists(), name


def test_the_stored_configuration_loads_back_equal(tmp_path):
    train(tmp_path, "train.max_steps=1")
    options = [*SHORT, f"train.output_dir={tmp_path}", "train.max_steps=1"]
    assert load_config(tmp_path / "config.yaml") == load_config(TINY, options)


def test_the_model_folder_holds_the_last_weights(tmp_path):
    train(tmp_path, "train.max_steps=3")
    tensors = CheckpointStore(tmp_path / "checkpoints").open("auto").model_tensors()
    for name, tensor in from_pretrained(tmp_path / "model").state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), tensors[name])


def test_two_runs_of_one_seed_are_bit_identical_and_another_seed_differs(tmp_path):
    for name in ("a", "b"):
        train(tmp_path / name, "train.max_steps=4")
    train(tmp_path / "c", "train.max_steps=4", "train.seed=1")
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "c")


@pytest.mark.parametrize("elastic", [False, True])
def test_a_resumed_run_repeats_the_uninterrupted_one(tmp_path, elastic):
    options = ["tokenizer.bpe_dropout=0.1"]
    if elastic:
        probabilities = ("depth_probability", "width_probability", "sparsity_probability")
        options += [f"stages.0.elastic.{name}=0.5" for name in probabilities]
        options += ["stages.0.elastic.min_layers=2", "stages.0.elastic.min_experts=4"]
    train(tmp_path / "whole", *options)
    train(tmp_path / "cut", *options, "train.max_steps=7")
    train(tmp_path / "cut", *options, resume="auto")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    evaluations = [[r["bits_per_byte"] for r in records(tmp_path / d, "eval")][-1] for d in ("whole", "cut")]
    assert evaluations[0] == evaluations[1]
    if elastic:
        subnets = {tuple(record["subnet"].values()) for record in records(tmp_path / "whole", "train")}
        assert len(subnets) > 3


def test_micro_batches_do_not_change_the_step(tmp_path):
    for rows in (1, 4):
        train(tmp_path / str(rows), "train.max_steps=3", f"stages.0.micro_batch_rows={rows}")
    one, four = (np.array(losses(tmp_path / str(rows))) for rows in (1, 4))
    np.testing.assert_allclose(one, four, rtol=2e-5)


def test_stages_follow_each_other_with_their_own_length_batch_and_schedule(tmp_path):
    from ernie5.inference.show import show
    from ernie5.train.run import run

    config = load_config(two_stage_file(tmp_path), [*SHORT, f"train.output_dir={tmp_path / 'run'}"])
    run(config, "", show)
    steps = records(tmp_path / "run", "train")
    assert [r["stage"] for r in steps].count("short") == 5
    batches = [r["batch_tokens"] for r in steps if r["stage"] == "long"]
    assert batches[0] == 256 and batches[-1] == 512  # the ramp
    assert sum(batches) >= 1536
    long_rates = [r["lr"] for r in steps if r["stage"] == "long"]
    assert long_rates == sorted(long_rates, reverse=True) and long_rates[0] == config.stages[1].learning_rate


def test_resume_crosses_a_stage_border(tmp_path):
    from ernie5.inference.show import show
    from ernie5.train.run import run

    path = two_stage_file(tmp_path)
    run(load_config(path, [*SHORT, f"train.output_dir={tmp_path / 'whole'}"]), "", show)
    run(load_config(path, [*SHORT, f"train.output_dir={tmp_path / 'cut'}", "train.max_steps=5"]), "", show)
    run(load_config(path, [*SHORT, f"train.output_dir={tmp_path / 'cut'}"]), "auto", show)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.fixture
def poison(monkeypatch):
    """A step -> from here on, in that step a gradient is not a number."""

    def poison(nan_step: int) -> None:
        accumulate = StepGradients.accumulate

        def poisoned(self, step, *arguments):
            result = accumulate(self, step, *arguments)
            if step == nan_step:
                gradient = self.parallel.model.decoder.layers[1].self_attn.q_proj.weight.grad
                gradient.set_value(paddle.full_like(gradient, float("nan")))
            return result

        monkeypatch.setattr(StepGradients, "accumulate", poisoned)

    return poison


@pytest.mark.parametrize("options", [[], ["train.save_steps=4", "train.async_save=true"]])
def test_nan_stops_with_its_cause_and_the_weights_before_it(options, tmp_path, monkeypatch, poison):
    """Also where these are still being written."""
    poison(4)
    write = saving.write_file
    monkeypatch.setattr(saving, "write_file", lambda *given: (time.sleep(0.5), write(*given))[1])
    said = r"step 4: .*decoder\.layers\.1\.self_attn\.q_proj\.weight is not finite; the weights before .* are saved"
    with pytest.raises(Fault, match=said):
        train(tmp_path / "run", *options)
    monkeypatch.undo()
    assert CheckpointStore(tmp_path / "run" / "checkpoints").open("auto").step == 4
    train(tmp_path / "run", resume="auto")
    train(tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_nan_in_the_first_step_does_not_tell_of_weights_that_are_saved(tmp_path, poison):
    poison(0)
    with pytest.raises(Fault, match="nothing was trained before this step: .* and start again"):
        train(tmp_path)
    assert not CheckpointStore(tmp_path / "checkpoints").newest_first()


def test_nan_with_a_full_disk_tells_both(tmp_path, monkeypatch, poison):
    def full(path, tensors):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    poison(4)
    monkeypatch.setattr(saving, "write_file", full)
    monkeypatch.setattr("ernie5.model.weights.write_file", full)
    with pytest.raises(Fault, match="q_proj.weight is not finite; .* could not be saved .*No space left"):
        train(tmp_path, "train.save_steps=0", "train.eval_steps=0")
    assert not CheckpointStore(tmp_path / "checkpoints").newest_first()


def test_a_process_that_has_not_claimed_the_folder_removes_nothing_from_it(tmp_path):
    class Second(Ranks):
        is_first = False

        def on_first(self, work):
            pass

    left = tmp_path / "checkpoints" / ".tmp-step_00000003-1-1"
    left.mkdir(parents=True)
    config = load_config(TINY, [*SHORT, f"train.output_dir={tmp_path}"])
    for ranks, is_left in ((Second(), True), (ALONE, False)):
        open_checkpoint(tmp_path, config, "", ranks)
        assert left.exists() == is_left


def test_a_second_run_into_the_same_folder_is_refused(tmp_path):
    train(tmp_path, "train.max_steps=1")
    with pytest.raises(UserError, match="holds a run already"):
        train(tmp_path, "train.max_steps=1")


def test_members_of_the_family_are_evaluated(tmp_path):
    config = tmp_path / "members.yaml"
    own = "\n".join(line for line in TINY.read_text().splitlines() if not line.startswith("include"))
    folder = TINY.parents[1]
    config.write_text(
        f"include: [{folder}/model/tiny.yaml, {folder}/stage/tiny.yaml]\n{own}\n"
        "members: [{name: shallow, num_layers: 2}, {name: narrow, num_experts: 4}, {name: sparse, top_k: 1}]\n"
    )
    from ernie5.inference.show import show
    from ernie5.train.run import run

    run(load_config(config, [*SHORT, f"train.output_dir={tmp_path / 'run'}", "train.max_steps=2"]), "", show)
    final = records(tmp_path / "run", "eval")[-1]
    scores = [final["bits_per_byte"], *(member["bits_per_byte"] for member in final["members"].values())]
    assert list(final["members"]) == ["shallow", "narrow", "sparse"] and len(set(scores)) == 4


def test_what_fails_after_training_loses_none_of_it(tmp_path, monkeypatch):
    def broken(self, *arguments, **options):
        raise UserError("the validation data is gone")

    monkeypatch.setattr(Trainer, "_evaluate", broken)
    with pytest.raises(UserError, match="gone"):
        train(tmp_path, "train.max_steps=3", "train.eval_steps=0")
    assert CheckpointStore(tmp_path / "checkpoints").open("auto").step == 3


def test_no_prompts_are_no_samples(tmp_path):
    train(tmp_path, "train.max_steps=1", "generation.prompts=[]")
    assert records(tmp_path, "sample") == []


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path):
    train(tmp_path, "train.max_steps=2")
    before = records(tmp_path, "eval")
    train(tmp_path, "train.max_steps=2", resume="auto")
    assert records(tmp_path, "eval") == before


def test_a_folder_in_which_a_process_trains_is_refused(tmp_path):
    import fcntl

    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process trains"):
            train(tmp_path, "train.max_steps=1")


def test_an_output_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="give train.output_dir another folder"):
        train(tmp_path / "run", "train.max_steps=1")


def test_a_checkpoint_of_another_run_does_not_mix_with_this_one(tmp_path):
    for name in ("a", "b"):
        train(tmp_path / name, "train.max_steps=1")
    with pytest.raises(UserError, match="belongs to another run"):
        train(tmp_path / "b", resume=str(tmp_path / "a" / "checkpoints" / "step_00000001"))
