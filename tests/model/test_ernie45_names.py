"""ERNIE 4.5 in this backbone: transformers' logits, loss and gradients (stored by tests/golden/make_ernie45_moe.py)."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors import safe_open

from ernie5.config.load import load_model_config
from ernie5.config.schema import ModelConfig
from ernie5.errors import UserError
from ernie5.layers.layout import make_layout
from ernie5.modality.batch import make_batch
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.ernie45_config import config_from_ernie45
from ernie5.model.ernie45_names import from_ernie45, published_names, to_ernie45
from ernie5.model.safetensors_file import host_array
from ernie5.model.subnet import full_subnet
from tests.sequences import packed_batch

ROOT = Path(__file__).parents[2]
BIAS = "mlp.gate.moe_statics.e_score_correction_bias"


class Golden(NamedTuple):
    """One stored model of transformers, by its own names."""

    values: dict  # of config.json
    config: ModelConfig
    weights: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    input_ids: np.ndarray
    logits: np.ndarray
    loss: float


@pytest.fixture(scope="module", params=["tied", "untied"])
def golden(request) -> Golden:
    with safe_open(ROOT / f"tests/golden/ernie45_moe_{request.param}.safetensors", "np") as file:
        values = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    weights, gradients = (
        {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
        for part in ("weights.", "gradients.")
    )
    config = config_from_ernie45(values, "golden")
    assert config.tie_word_embeddings == (request.param == "tied")
    return Golden(
        values, config, weights, gradients, tensors["input_ids"], tensors["logits"], float(tensors["loss"][0])
    )


def load(golden: Golden) -> Ernie5ForCausalLM:
    model = Ernie5ForCausalLM(golden.config)
    missing, unexpected = model.set_state_dict(made(from_ernie45(golden.weights, golden.config)))
    assert not missing and not unexpected
    return model


def made(tensors) -> dict[str, np.ndarray]:
    """With the values of those that are made when they are needed."""
    return {name: host_array(tensor) for name, tensor in tensors.items()}


def batch_of(golden: Golden):
    return make_batch(packed_batch([[row.tolist()] for row in golden.input_ids]))


def logits_of(model: Ernie5ForCausalLM, batch) -> np.ndarray:
    layout = make_layout(batch.mask_rows, batch.position_ids, model.config.attention)
    return model.logits(model.hidden_states(batch.input_ids, layout, full_subnet(model.config))).numpy()


def test_logits_equal_those_of_transformers(golden):
    # Measured: 8e-6 of logits up to 5, float32 on both sides.
    np.testing.assert_allclose(logits_of(load(golden), batch_of(golden)), golden.logits, rtol=0, atol=2e-5)


def test_balancing_bias_matters_to_the_stored_logits(golden):
    model = load(golden)
    for block in model.decoder.layers[1:]:
        block.mlp.gate.expert_bias.zero_()
    assert np.abs(logits_of(model, batch_of(golden)) - golden.logits).max() > 0.1


def test_loss_and_every_gradient_equal_those_of_transformers(golden):
    model = load(golden)
    batch = batch_of(golden)
    loss = model(batch, full_subnet(model.config)).text / batch.loss_weight.sum()
    loss.backward()
    assert float(loss) == pytest.approx(golden.loss, rel=1e-6)
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    theirs = made(to_ernie45(gradients, golden.config))
    assert theirs.keys() == golden.gradients.keys()
    for name, expected in golden.gradients.items():
        scale = np.abs(expected).max()
        assert scale > 0, name
        # Measured: 2e-6 of the largest on one processor, 3e-6 on another.
        np.testing.assert_allclose(theirs[name], expected, rtol=1e-4, atol=1e-5 * scale, err_msg=name)


def test_conversion_there_and_back_is_exact(golden):
    back = made(to_ernie45(made(from_ernie45(golden.weights, golden.config)), golden.config))
    assert back.keys() == golden.weights.keys()
    for name, tensor in golden.weights.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def published(golden) -> dict[str, np.ndarray]:
    """As the checkpoints have them, written down independently of the conversion."""
    found = {}
    for name, tensor in golden.weights.items():
        if name.endswith("experts.gate_up_proj"):
            for i, expert in enumerate(tensor):
                gate, up = np.split(expert, 2)
                stem = name.replace("gate_up_proj", str(i))
                found |= {f"{stem}.gate_proj.weight": gate, f"{stem}.up_proj.weight": up}
        elif name.endswith("experts.down_proj"):
            stem = name.removesuffix("down_proj")
            found |= {f"{stem}{i}.down_proj.weight": expert for i, expert in enumerate(tensor)}
        else:
            found[name.replace(BIAS, "mlp.moe_statics.e_score_correction_bias")] = tensor
    return found


def test_names_of_published_checkpoints_are_taken_and_given(golden):
    tensors = published(golden)
    expected = made(from_ernie45(golden.weights, golden.config))
    converted = made(from_ernie45(tensors | {"model.mtp_linear_proj.0.weight": np.zeros([1])}, golden.config))
    assert converted.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(converted[name], tensor, err_msg=name)
    back = made(published_names(to_ernie45(converted, golden.config)))
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_a_stored_copy_of_the_tied_head_is_left_out(golden):
    head = {"lm_head.weight": golden.weights["model.embed_tokens.weight"]}
    for tied in (True, False):
        config = dataclasses.replace(golden.config, tie_word_embeddings=tied)
        assert ("text.lm_head.weight" in from_ernie45(head, config)) is not tied


def test_an_expert_that_does_not_fit_is_named(golden):
    tensors, stem = published(golden), "model.layers.1.mlp.experts"
    last = tensors[f"{stem}.7.up_proj.weight"]
    cases = {
        rf"{stem}\.1: has no down_proj": {f"{stem}.1.down_proj.weight": None},
        rf"{stem}\.8: config.json has moe_num_experts 8": {
            f"{stem}.8.{kind}_proj.weight": tensors[f"{stem}.7.{kind}_proj.weight"] for kind in ("gate", "up", "down")
        },
        rf"{stem}\.7\.up_proj\.weight: is float32 \[24, 12\], not float32 \[12, 24\]": {
            f"{stem}.7.up_proj.weight": last.T
        },
        rf"{stem}\.7\.up_proj\.weight: is uint16": {f"{stem}.7.up_proj.weight": last.astype(np.uint16)},
    }
    for message, changed in cases.items():
        with pytest.raises(UserError, match=message):
            from_ernie45({k: v for k, v in (tensors | changed).items() if v is not None}, golden.config)


def test_a_foreign_tensor_is_named(golden):
    with pytest.raises(UserError, match=r"model\.layers\.0\.self_attn\.q_proj\.bias"):
        from_ernie45({"model.layers.0.self_attn.q_proj.bias": np.zeros(3)}, golden.config)
    with pytest.raises(UserError, match=r"mtp\.hnorm\.weight"):
        to_ernie45({"mtp.hnorm.weight": np.zeros(3)}, golden.config)


@pytest.mark.parametrize(
    "key, value",
    [("model_type", "llama"), ("use_bias", True), ("hidden_act", "gelu"), ("moe_layer_interval", 2)]
    + [("moe_layer_end_index", 1), ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4})],
)  # fmt: skip
def test_a_setting_that_does_not_fit_is_refused_by_name(golden, key, value):
    expected = "rope_type" if key == "rope_parameters" else key
    with pytest.raises(UserError, match=expected):
        config_from_ernie45(golden.values | {key: value}, "other")


def test_a_missing_setting_is_named(golden):
    values = {key: value for key, value in golden.values.items() if key != "moe_k"}
    with pytest.raises(UserError, match="moe_k is missing"):
        config_from_ernie45(values, "other")


def test_published_config_gives_the_shipped_model():
    published = {
        "model_type": "ernie4_5_moe",
        "vocab_size": 103424,
        "hidden_size": 2560,
        "intermediate_size": 12288,
        "num_hidden_layers": 28,
        "num_attention_heads": 20,
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "use_bias": False,
        "tie_word_embeddings": True,
        "moe_num_experts": 64,
        "moe_k": 6,
        "moe_intermediate_size": 1536,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_layer_end_index": 27,
        "moe_layer_interval": 1,
    }
    shipped = load_model_config(ROOT / "configs/model/ernie45_21b_a3b.yaml")
    assert config_from_ernie45(published, shipped.name) == shipped
