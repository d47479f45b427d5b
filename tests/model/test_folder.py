"""The model folder: what is saved loads back, and what does not fit is refused in one sentence."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from ernie5.errors import UserError
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.folder import flat_config, from_pretrained, nested_config, read_config, save_pretrained


@pytest.fixture
def folder(config, build, tmp_path) -> Path:
    return save_pretrained(build(config), tmp_path / "model")


def edit(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        from_pretrained(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_loads_back_equal(config, build, tmp_path, tied):
    model = build(dataclasses.replace(config, tie_word_embeddings=tied))
    loaded = from_pretrained(save_pretrained(model, tmp_path))
    assert loaded.config == model.config
    state, expected = loaded.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(state[name].numpy(), tensor.numpy(), err_msg=name)


def test_loading_does_not_depend_on_the_random_state(folder):
    first, second = (from_pretrained(folder).state_dict() for _ in range(2))
    assert all((first[name].numpy() == second[name].numpy()).all() for name in first)


def test_config_names_the_architecture_and_has_one_level(folder):
    values = json.loads((folder / "config.json").read_text())
    assert values["architectures"] == ["Ernie5ForCausalLM"] and values["model_type"] == "ernie5"
    assert values["num_attention_heads"] == 4 and values["num_experts"] == 8
    assert not [key for key, value in values.items() if isinstance(value, dict)]


def test_tensors_have_the_ecosystem_s_names(folder):
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as file:
        names = set(file.keys())
    assert {"model.embed_tokens.weight", "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"} <= names
    assert {"model.layers.1.mlp.experts.gate_up_proj", "model.mtp.0.eh_proj.weight"} <= names
    assert "lm_head.weight" not in names  # tied


def test_flat_and_nested_config_are_inverse(config):
    assert nested_config(flat_config(config)) == dataclasses.asdict(config)


def test_read_config_gives_the_config_without_the_weights(config, folder):
    (folder / "model.safetensors").unlink()
    assert read_config(folder) == config


def test_a_foreign_model_is_refused_by_its_type(folder):
    edit(folder, model_type="llama")
    message = refusal(folder)
    assert "config.json" in message and "'llama'" in message


def test_a_folder_without_config_is_refused(tmp_path):
    assert str(tmp_path / "config.json") in refusal(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '"ernie5"', "\x00"], ids=repr)
def test_a_config_that_is_no_json_object_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    assert "config.json" in refusal(folder)


def test_an_unknown_setting_is_refused_with_the_nearest_known_one(folder):
    edit(folder, hiden_size=32)
    message = refusal(folder)
    assert "hiden_size" in message and "hidden_size" in message


def test_a_missing_setting_is_named(folder):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    del values["num_experts"]
    path.write_text(json.dumps(values))
    assert "num_experts" in refusal(folder)


def test_another_vocabulary_is_refused_with_both_shapes(folder):
    edit(folder, vocab_size=97)
    message = refusal(folder)
    assert "model.embed_tokens.weight" in message and "[96, 32]" in message and "[97, 32]" in message


def test_another_depth_is_refused_by_the_names_that_are_too_many(folder):
    edit(folder, num_hidden_layers=2)
    assert "model.layers.2." in refusal(folder)


def test_missing_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refusal(folder)


def test_a_truncated_file_is_refused_by_name(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert str(path) in refusal(folder)


def test_a_checkpoint_in_half_precision_is_read_as_float32(folder, config, build):
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    save_file({name: tensor.astype(np.float16) for name, tensor in load_file(path).items()}, path)
    loaded, original = from_pretrained(folder), build(config)
    for name, tensor in original.state_dict().items():
        expected = tensor.numpy().astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(loaded.state_dict()[name].numpy(), expected, err_msg=name)


def test_a_tokenizer_folder_with_other_weights_brings_only_its_tokenizer(tmp_path, tiny_model_config):
    from ernie5.tokenizers.text import train_tokenizer

    train_tokenizer(["a text about nothing, " * 50], 340).save_pretrained(tmp_path / "tokenizer")
    first, second = Ernie5ForCausalLM(tiny_model_config), Ernie5ForCausalLM(tiny_model_config)
    save_pretrained(first, tmp_path / "first", tmp_path / "tokenizer")
    save_pretrained(second, tmp_path / "second", tmp_path / "first")
    loaded = from_pretrained(tmp_path / "second").state_dict()
    for name, tensor in second.state_dict().items():
        np.testing.assert_array_equal(loaded[name].numpy(), tensor.numpy())
