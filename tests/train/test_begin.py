"""Runs that begin with the weights of a model folder (`train.init_from`)."""

import numpy as np
import pytest

from ernie5.config.load import load_config
from ernie5.elastic.extract import extracted_config, extracted_tensors
from ernie5.errors import UserError
from ernie5.inference.show import show
from ernie5.model.folder import MODEL_YAML, load_weights, read_config, save_folder, tokenizers_in
from ernie5.model.subnet import make_subnet
from ernie5.tokenizers.text import TextTokenizer
from ernie5.train.run import run
from tests.runs import TINY, losses, overrides, records, start_tool, train
from tests.vision_runs import vision_config

ONE_STEP = ("train.max_steps=1", "train.eval_steps=0", "train.sample_steps=0")
DEPTH = "stages.0.elastic={depth_probability: 1, min_layers: 2}"  # of three layers: the first and the last
SPARSITY = "stages.0.elastic={sparsity_probability: 1, min_top_k: 1}"  # of a top-k of two: one


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of a few steps, whose model folder others begin with."""
    run_dir = tmp_path_factory.mktemp("source")
    train(run_dir, "train.max_steps=6", "train.eval_steps=0", "train.sample_steps=0")
    return run_dir


def cut(source, folder, layer_ids, top_k):
    config = read_config(source / "model")
    subnet = make_subnet(config, layer_ids, None, top_k)
    smaller = extracted_config(config, subnet, "smaller")
    tensors = extracted_tensors(load_weights(source / "model", config), config, subnet)
    return save_folder(smaller, tensors, folder, **tokenizers_in(source / "model"))


def test_a_run_begins_with_the_weights_balance_and_tokenizer_of_the_folder(source, tmp_path):
    run_dir = tmp_path / "run"
    train(run_dir, *ONE_STEP, f"train.init_from={source / 'model'}", "stages.0.learning_rate=1e-30",
          "stages.0.min_learning_rate=0", "stages.0.expert_bias_speed=0")  # fmt: skip
    config = read_config(source / "model")
    before, after = load_weights(source / "model", config), load_weights(run_dir / "model", config)
    for name, weight in before.items():
        np.testing.assert_array_equal(after[name], weight, err_msg=name)
    assert any(np.abs(weight).max() > 0 for name, weight in before.items() if name.endswith("expert_bias"))
    tokenizers = [TextTokenizer.from_pretrained(folder / "model").digest for folder in (source, run_dir)]
    assert tokenizers[0] == tokenizers[1]


@pytest.mark.parametrize(
    "layer_ids, top_k, draw", [((0, 2), 2, DEPTH), ((0, 1, 2), 1, SPARSITY)], ids=["depth", "sparsity"]
)
def test_an_extracted_member_trains_on_from_the_loss_it_had_inside_the_full_model(
    source, tmp_path, layer_ids, top_k, draw
):
    folder = cut(source, tmp_path / "small", layer_ids, top_k)
    train(tmp_path / "full", *ONE_STEP, f"train.init_from={source / 'model'}", draw)
    sizes = [f"model.num_hidden_layers={len(layer_ids)}", f"model.moe.num_experts_per_tok={top_k}"]
    train(tmp_path / "run", "train.eval_steps=0", "train.sample_steps=0", f"train.init_from={folder}", *sizes)
    (inside,), alone = losses(tmp_path / "full"), losses(tmp_path / "run")
    assert alone[0][:2] == inside[:2]  # the bits of the first loss
    assert alone[-1][1] < alone[0][1]  # and it goes down from there


def test_bfloat16_weights_are_read_as_what_they_are(source, tmp_path):
    config = read_config(source / "model")
    weights = load_weights(source / "model", config)
    halves = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in weights.items()}
    wide = {name: (array.astype(np.uint32) << 16).view(np.float32) for name, array in halves.items()}
    for name, tensors in (("halves", halves), ("wide", wide)):
        folder = save_folder(config, tensors, tmp_path / name, **tokenizers_in(source / "model"))
        train(tmp_path / f"run_{name}", *ONE_STEP, f"train.init_from={folder}")
    assert losses(tmp_path / "run_halves") == losses(tmp_path / "run_wide")


def test_the_folder_brings_the_models_section_of_a_run_file(source, tmp_path):
    folder = cut(source, tmp_path / "small", (0, 2), 1)
    text = TINY.read_text().replace("../model/tiny.yaml", str(folder / MODEL_YAML))
    stage = str(TINY.parents[1] / "stage" / "tiny.yaml")
    (tmp_path / "run.yaml").write_text(text.replace("../stage/tiny.yaml", stage))
    config = load_config(tmp_path / "run.yaml", [f"train.init_from={folder}", f"train.output_dir={tmp_path / 'run'}",
                                                 "data.validation_fraction=0.02", *ONE_STEP])  # fmt: skip
    assert config.model == read_config(folder)
    run(config, "", show)
    assert records(tmp_path / "run", "train")[0]["loss_text"] < 0.98 * np.log(config.model.vocab_size)


def test_a_resumed_run_does_not_look_at_the_folder_again(source, tmp_path):
    settings = (f"train.init_from={source / 'model'}", "train.eval_steps=0", "train.sample_steps=0")
    train(tmp_path / "whole", *settings, "train.max_steps=4")
    train(tmp_path / "cut", *settings, "train.max_steps=2")
    gone = ("train.init_from=gone", *settings[1:], "train.max_steps=4")
    train(tmp_path / "cut", *gone, resume="auto")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.multiproc
def test_processes_that_share_a_model_begin_with_their_pieces(source, tmp_path):
    begin = (f"train.init_from={source / 'model'}", "train.max_steps=2", "train.eval_steps=0", "train.sample_steps=0")
    train(tmp_path / "one", *begin)
    layout = ("parallel.tensor=2", "parallel.expert=2")
    program = start_tool(tmp_path / "two", "--nproc_per_node", "2", *overrides([*begin, *layout]))
    _, said = program.communicate(timeout=300)
    assert program.returncode == 0, said
    # Sums over processes are rounded in another order.
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)


def test_another_model_is_refused_with_the_settings_that_differ(source, tmp_path):
    with pytest.raises(UserError, match=r"is another model \(model.moe.num_experts_per_tok is 1, there 2\); include"):
        train(tmp_path / "run", f"train.init_from={source / 'model'}", "model.moe.num_experts_per_tok=1")
    with pytest.raises(UserError, match="gone/config.json: cannot be read"):
        train(tmp_path / "run", f"train.init_from={tmp_path / 'gone'}")


def test_a_name_and_a_spread_of_initial_weights_may_differ(source, tmp_path):
    other = ("model.name=other", "model.initializer_range=0.5")
    train(tmp_path / "run", *ONE_STEP, f"train.init_from={source / 'model'}", *other)
    assert losses(tmp_path / "run")


def test_a_folder_without_a_tokenizer_is_said_and_one_is_trained(source, tmp_path, caplog):
    config = read_config(source / "model")
    folder = save_folder(config, load_weights(source / "model", config), tmp_path / "bare")
    with caplog.at_level("WARNING"):
        train(tmp_path / "run", *ONE_STEP, f"train.init_from={folder}")
    assert "has no text tokenizer of ernie5: one is trained" in caplog.text
    assert (tmp_path / "run" / "model" / "tokenizer.model").exists()


def test_a_model_that_sees_keeps_the_encoder_it_was_trained_with(tmp_path):
    first = vision_config(tmp_path, "train.max_steps=1")
    run(first, "", show)
    folder = tmp_path / "run" / "model"
    config = read_config(folder)
    weights = dict(load_weights(folder, config))
    moved = {name: weight + 1 for name, weight in weights.items() if name.startswith("vision_understanding.cnn.")}
    assert moved
    other = save_folder(config, weights | moved, tmp_path / "other", tokenizer_dir=folder)
    run(vision_config(tmp_path, "train.max_steps=1", f"train.init_from={other}",
                      f"train.output_dir={tmp_path / 'second'}"), "", show)  # fmt: skip
    after = load_weights(tmp_path / "second" / "model", config)
    for name, weight in moved.items():
        np.testing.assert_array_equal(after[name], weight, err_msg=name)
