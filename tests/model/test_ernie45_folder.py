"""Folders of ERNIE 4.5 in and out: PaddleFormers saved, transformers computed (golden/make_ernie45_checkpoint.py)"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest

from ernie5.elastic.extract import extracted_config, extracted_tensors
from ernie5.errors import UserError
from ernie5.layers.layout import make_layout
from ernie5.modality.batch import make_batch
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.ernie45_config import config_from_ernie45, config_to_ernie45
from ernie5.model.ernie45_folder import KEPT, LAYOUTS, read_checkpoint, save_as_ernie45, save_checkpoint
from ernie5.model.folder import from_pretrained, load_weights, read_config, save_folder, save_pretrained
from ernie5.model.safetensors_file import write_file
from ernie5.model.subnet import full_subnet, make_subnet
from ernie5.model.weights import load_tensors
from tests.sequences import packed_batch
from tests.vision_models import vision_config

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/ernie45_checkpoint"


@pytest.fixture(params=["moe", "dense"])
def source(request) -> Path:
    return GOLDEN / request.param


def converted(source: Path, target: Path) -> Path:
    save_checkpoint(read_checkpoint(source, "converted"), source, target)
    return target


@paddle.no_grad()
def logits_of(folder: Path, ids: np.ndarray) -> np.ndarray:
    model = from_pretrained(folder)
    batch = make_batch(packed_batch([[row.tolist()] for row in ids]))
    layout = make_layout(batch.mask_rows, batch.position_ids, model.config.attention)
    return model.logits(model.hidden_states(batch.input_ids, layout, full_subnet(model.config))).numpy()


def without_prediction(folder: Path) -> dict[str, np.ndarray]:
    return {name: array for name, array in load_tensors(folder).items() if not name.startswith("model.mtp_")}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def in_bfloat16(source: Path, target: Path) -> Path:
    """The folder with every matrix cut to bfloat16, but the router and its bias, as published."""
    target.mkdir()
    tensors = {}
    for name, array in load_tensors(source).items():
        is_float = name.endswith(("mlp.gate.weight", "e_score_correction_bias"))
        tensors[name] = array if is_float else (np.ascontiguousarray(array).view(np.uint32) >> 16).astype(np.uint16)
    write_file(target / "model.safetensors", tensors)
    shutil.copyfile(source / "config.json", target / "config.json")
    return target


def test_logits_are_those_of_transformers_on_the_same_folder(source, tmp_path):
    expected = np.load(source / "expected.npz")
    found = logits_of(converted(source, tmp_path / "ours"), expected["input_ids"])
    # Measured: 5e-6 of logits up to 12, float32 on both sides.
    np.testing.assert_allclose(found, expected["logits"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_gives_the_same_tensors(source, tmp_path, layout):
    ours = converted(source, tmp_path / "ours")
    save_as_ernie45(ours, tmp_path / "back", layout, max_shard_bytes=60_000)
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 1
    if layout == "transformers":
        assert_same(load_tensors(tmp_path / "back"), without_prediction(source))
    again = converted(tmp_path / "back", tmp_path / "again")
    assert_same(load_tensors(again), load_tensors(ours))
    assert dataclasses.replace(read_config(again), name="converted") == read_config(ours)


def test_paddles_layout_is_the_published_one(tmp_path):
    """Names and shapes of ERNIE-4.5-300B-A47B-Paddle; joined as ERNIEKit's `Ernie4_5_Attention` and `_MLP` split."""
    source = GOLDEN / "moe"
    save_as_ernie45(converted(source, tmp_path / "ours"), tmp_path / "back", "paddle")
    theirs, found = without_prediction(source), load_tensors(tmp_path / "back")
    assert all(name.startswith("ernie.") for name in found)
    qkv = found["ernie.layers.2.self_attn.qkv_proj.weight"].reshape([24, 10, 8])  # split along the heads: 6, 2, 2
    for kind, part in zip("qkv", np.split(qkv, [6, 8], axis=1), strict=True):
        np.testing.assert_array_equal(part.reshape([24, -1]), theirs[f"model.layers.2.self_attn.{kind}_proj.weight"].T)
    for stem in ("layers.0.mlp", "layers.1.mlp.shared_experts", "layers.2.mlp.experts.5"):
        gate, up = np.split(found[f"ernie.{stem}.up_gate_proj.weight"], 2, axis=-1)  # silu of the first half
        np.testing.assert_array_equal(gate, theirs[f"model.{stem}.gate_proj.weight"].T)
        np.testing.assert_array_equal(up, theirs[f"model.{stem}.up_proj.weight"].T)
    for name in ("1.mlp.gate.weight", "1.self_attn.o_proj.weight", "2.mlp.experts.0.down_proj.weight"):
        np.testing.assert_array_equal(found[f"ernie.layers.{name}"], theirs[f"model.layers.{name}"].T)
    for name in ("embed_tokens.weight", "norm.weight", "layers.1.mlp.moe_statics.e_score_correction_bias"):
        np.testing.assert_array_equal(found[f"ernie.{name}"], theirs[f"model.{name}"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bfloat16_keeps_its_bits(source, tmp_path, layout):
    narrow = in_bfloat16(source, tmp_path / "narrow")
    ours = converted(narrow, tmp_path / "ours")
    assert json.loads((ours / "config.json").read_text())["dtype"] == "bfloat16"
    save_as_ernie45(ours, tmp_path / "back", layout)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    again = converted(tmp_path / "back", tmp_path / "again")
    assert_same(load_tensors(again), load_tensors(ours))
    if layout == "transformers":
        assert_same(load_tensors(tmp_path / "back"), without_prediction(narrow))


def test_an_untied_head_goes_both_ways(tmp_path):
    ours = converted(GOLDEN / "moe", tmp_path / "ours")
    config = dataclasses.replace(read_config(ours), tie_word_embeddings=False)
    head = np.random.default_rng(0).normal(size=[24, 320]).astype(np.float32)
    weights = load_weights(ours, read_config(ours)) | {"text.lm_head.weight": head}
    save_folder(config, weights, tmp_path / "untied")
    for layout, expected in (("transformers", head.T), ("paddle", head)):
        back = tmp_path / layout
        save_as_ernie45(tmp_path / "untied", back, layout)
        np.testing.assert_array_equal(load_tensors(back)["lm_head.weight"], expected)
        assert_same(load_tensors(converted(back, tmp_path / f"{layout}_again")), load_tensors(tmp_path / "untied"))


def test_a_smaller_member_goes_out_too(tmp_path):
    ours = converted(GOLDEN / "moe", tmp_path / "ours")
    config = read_config(ours)
    kept = np.tile(np.arange(8) % 2 == 1, (3, 1))
    subnet = make_subnet(config, (0, 2), kept, 2)
    smaller = extracted_config(config, subnet, "converted")
    save_folder(smaller, extracted_tensors(load_weights(ours, config), config, subnet), tmp_path / "small")
    save_as_ernie45(tmp_path / "small", tmp_path / "back")
    settings = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (settings["moe_num_experts"], settings["moe_k"], settings["moe_layer_end_index"]) == (4, 2, 1)
    found, theirs = load_tensors(tmp_path / "back"), load_tensors(GOLDEN / "moe")
    name = "mlp.experts.{}.down_proj.weight"
    np.testing.assert_array_equal(found["model.layers.1." + name.format(1)], theirs["model.layers.2." + name.format(3)])


def test_files_for_others_are_kept_and_come_back(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(GOLDEN / "moe", source)
    (source / "tokenizer.model").write_bytes(b"theirs")
    (source / "tokenization_ernie4_5.py").write_text("raise SystemExit")
    settings = json.loads((source / "config.json").read_text()) | {"max_position_embeddings": 77, "eos_token_id": 5}
    (source / "config.json").write_text(json.dumps(settings))
    ours = converted(source, tmp_path / "ours")
    assert sorted(path.name for path in (ours / KEPT).iterdir()) == ["config.json", "tokenizer.model"]
    save_as_ernie45(ours, tmp_path / "back")
    assert (tmp_path / "back" / "tokenizer.model").read_bytes() == b"theirs"
    assert not (tmp_path / "back" / KEPT).exists()
    back = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (back["max_position_embeddings"], back["eos_token_id"]) == (77, 5)
    assert (settings["num_nextn_predict_layers"], back["num_nextn_predict_layers"]) == (1, 0)  # it was left out


def test_settings_go_both_ways(source):
    values = json.loads((source / "config.json").read_text())
    config = config_from_ernie45(values, "any")
    assert config_from_ernie45(config_to_ernie45(config), "any") == config
    known = config_to_ernie45(config)
    shared = values.keys() & known.keys() - {"architectures", "max_position_embeddings", "num_nextn_predict_layers"}
    assert len(shared) > 10 and {key: known[key] for key in shared} == {key: values[key] for key in shared}


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"some_new_gate": 1}, "some_new_gate is not known of ERNIE 4.5's text models"),
        ({"rope_scaling": {"factor": 2}}, "rope_scaling is .* but only None fits"),
        ({"compression_ratio": 2.0}, "compression_ratio is 2.0"),
        ({"quantization_config": {"dense_quant_type": "wint4"}}, "quantization_config is"),
        ({"moe_num_experts": [64, 64]}, r"moe_num_experts is \[64, 64\], but one number fits"),
        ({"moe_norm_gate_logits": False}, "moe_norm_gate_logits is False"),
        ({"model_type": "ernie4_5_moe_vl"}, "model_type is 'ernie4_5_moe_vl', but only ernie4_5_moe and ernie4_5"),
        ({"head_dim": 7}, "head_dim is 7: must be even"),
        ({"rope_parameters": 3}, "rope_parameters is 3"),
        ({"rope_parameters": {"rope_theta": "big"}}, "rope_theta must be a number"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_setting_that_does_not_fit_is_refused_by_name(tmp_path, changed, message):
    source = tmp_path / "source"
    shutil.copytree(GOLDEN / "moe", source)
    settings = json.loads((source / "config.json").read_text()) | changed
    (source / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=message) as error:
        read_checkpoint(source, "any")
    assert str(source / "config.json") in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: {"num_nextn_predict_layers": 1}, "num_nextn_predict_layers is 1, where 0 fits"),
        (lambda c: {"vision": vision_config()}, "model.vision is there"),
        (lambda c: {"moe": dataclasses.replace(c.moe, router_score="sigmoid")}, "moe.router_score is 'sigmoid'"),
        (lambda c: {"moe": dataclasses.replace(c.moe, routed_scaling_factor=2.0)}, "routed_scaling_factor is 2.0"),
        (lambda c: {"attention": dataclasses.replace(c.attention, use_bias=True)}, "attention.use_bias is True"),
    ],
)  # fmt: skip
def test_a_part_that_they_lack_is_refused_by_name(tiny_model_config, tmp_path, change, message):
    config = dataclasses.replace(tiny_model_config, num_nextn_predict_layers=0)
    save_pretrained(Ernie5ForCausalLM(dataclasses.replace(config, **change(config))), tmp_path / "ours")
    with pytest.raises(UserError, match=message):
        save_as_ernie45(tmp_path / "ours", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_queries_with_keys_of_their_own_have_no_known_layout_in_paddle(tiny_model_config, tmp_path):
    attention = dataclasses.replace(tiny_model_config.attention, num_key_value_heads=4)
    config = dataclasses.replace(tiny_model_config, num_nextn_predict_layers=0, attention=attention)
    save_pretrained(Ernie5ForCausalLM(config), tmp_path / "ours")
    with pytest.raises(UserError, match="num_key_value_heads equals num_attention_heads"):
        save_as_ernie45(tmp_path / "ours", tmp_path / "back", "paddle")


def test_tensors_that_do_not_fit_are_named(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(GOLDEN / "dense", source)
    tensors = {name: np.array(array) for name, array in load_tensors(source).items()}
    for path in source.glob("model*"):
        path.unlink()
    name = "model.layers.1.self_attn.k_proj.weight"
    for changed, message in (
        ({"visual.proj.weight": tensors[name]}, "visual.proj.weight: no tensor of an ERNIE 4.5 text model"),
        ({name: tensors[name][:8]}, r"1 of another shape \(decoder.layers.1.self_attn.k_proj.weight: \[24, 8\] there"),
        ({name: tensors[name].astype(np.int32)}, "1 of another dtype"),
        ({name: None}, r"1 missing \(decoder.layers.1.self_attn.k_proj.weight\)"),
    ):
        kept = {key: array for key, array in (tensors | changed).items() if array is not None}
        write_file(source / "model.safetensors", kept)
        with pytest.raises(UserError, match=message):
            read_checkpoint(source, "any")


@pytest.mark.parametrize("path", ["../stolen.safetensors", "/etc/stolen.safetensors", "a/b.safetensors", "weights.bin"])
def test_an_index_names_files_beside_it_and_nothing_else(tmp_path, path):
    source = tmp_path / "source"
    shutil.copytree(GOLDEN / "moe", source)
    index = json.loads((source / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = path
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="only files beside the index are read"):
        read_checkpoint(source, "any")


def test_pickles_are_not_read(tmp_path):
    shutil.copyfile(GOLDEN / "moe" / "config.json", tmp_path / "config.json")
    (tmp_path / "model_state.pdparams").write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match="has neither model.safetensors nor model.safetensors.index.json"):
        read_checkpoint(tmp_path, "any")
