"""A member that was taken out computes what the full model computes under the member's mask."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle
import pytest

from ernie5.data.sample import Audio, Image, Text
from ernie5.elastic.extract import extracted_config, extracted_tensors
from ernie5.errors import UserError
from ernie5.modality.batch import Batch, Coders, make_batch
from ernie5.modality.unified import stack
from ernie5.modality.vision_codes import VisionCoder
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.folder import from_pretrained, load_weights, save_folder
from ernie5.model.subnet import Subnet, full_subnet, make_subnet
from ernie5.model.weights import load_tensors
from tests.arithmetic_audio import audio_coder, audio_model, encoded, noise_sound, row_of
from tests.sequences import packed_batch, random_documents
from tests.vision_models import noise_picture, text_tokenizer, vision_config, vision_tokenizer

pytest.importorskip("soundfile")
LAYERS, EXPERTS = 5, 8
LOSSES = ("text", "mtp", "vision", "audio")


class Case(NamedTuple):
    """A model with a dense layer, shared experts and a prediction block, and what it reads."""

    model: Ernie5ForCausalLM
    batch: Batch


@pytest.fixture
def config(tiny_model_config):
    moe = dataclasses.replace(tiny_model_config.moe, num_dense_layers=1, num_shared_experts=1)
    return dataclasses.replace(tiny_model_config, moe=moe, intermediate_size=24, num_hidden_layers=LAYERS)


def stirred(model: Ernie5ForCausalLM) -> Ernie5ForCausalLM:
    rng = np.random.default_rng(7)
    for name, tensor in model.state_dict().items():
        spread = 0.1 if name.endswith("expert_bias") else 0.2
        tensor.set_value((rng.normal(0, spread, tensor.shape) + ("norm" in name)).astype(np.float32))
    return model.eval()


@pytest.fixture
def text(config) -> Case:
    model = stirred(Ernie5ForCausalLM(config))
    return Case(model, make_batch(packed_batch([random_documents([9, 7], config.vocab_size)], length=18)))


@pytest.fixture
def four(config, tmp_path) -> Case:
    model, tokenizer = stirred(audio_model(config, vision_config())), text_tokenizer()
    samples = [
        (Audio(noise_sound(tmp_path, 240), "understand"), Text("a seven")),
        (Text("Draw", loss=False), Audio(noise_sound(tmp_path, 245, 2), "generate"), Text("it")),
        (Image(noise_picture(tmp_path), "understand"), Text("What")),
        (Text("Draw a seven", loss=False), Image(noise_picture(tmp_path, seed=1), "generate")),
    ]
    row = row_of([encoded(model.config, tokenizer, *segments) for segments in samples])
    return Case(model, make_batch(stack([row]), Coders(VisionCoder(vision_tokenizer()), audio_coder())))


def experts_by_row(count: int, differing: bool) -> np.ndarray:
    """bool [layers + 1, experts], `count` in each row."""
    rng = np.random.default_rng(3)
    kept = np.zeros([LAYERS + 1, EXPERTS], bool)
    for row in kept:
        row[rng.permutation(EXPERTS)[:count] if differing else range(count)] = True
    return kept


def extract(model: Ernie5ForCausalLM, subnet: Subnet, folder: Path) -> Ernie5ForCausalLM:
    """Through files, as the tool does it."""
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    smaller = extracted_config(model.config, subnet, "smaller")
    save_folder(smaller, extracted_tensors(tensors, model.config, subnet), folder)
    return from_pretrained(folder).eval()


@paddle.no_grad()
def outputs(case: Case, model: Ernie5ForCausalLM, subnet: Subnet) -> dict[str, np.ndarray]:
    """Logits of every position, and the loss of each modality."""
    walk = model.walk(case.batch)
    decoded = model.decoder(model.embed(case.batch), walk.layout, subnet, taps=walk.taps)
    losses = model.losses(decoded, case.batch, walk, subnet)
    found = {name: loss.numpy() for name in LOSSES if (loss := getattr(losses, name)) is not None}
    return found | {"logits": model.logits(decoded.hidden_states).numpy()}


# Which layers can go: audio's codes are read behind the last two.
LAYER_CUTS = [(0, 1, 2, 3, 4), (0, 3, 4), (0, 1, 3, 4), (1, 3, 4), (3, 4)]


@pytest.mark.parametrize("kind", ["text", "four"])
@pytest.mark.parametrize("layer_ids", LAYER_CUTS, ids=str)
@pytest.mark.parametrize("top_k", [1, 2])
def test_fewer_layers_and_a_smaller_top_k_give_the_masked_models_bits(request, tmp_path, kind, layer_ids, top_k):
    case = request.getfixturevalue(kind)
    subnet = make_subnet(case.model.config, layer_ids, None, top_k)
    smaller = extract(case.model, subnet, tmp_path / "small")
    found = outputs(case, smaller, full_subnet(smaller.config))
    expected = outputs(case, case.model, subnet)
    assert found.keys() == expected.keys() and len(found) == (5 if kind == "four" else 3)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert smaller.config.moe.num_dense_layers == (0 in layer_ids)


@pytest.mark.parametrize("kind", ["text", "four"])
@pytest.mark.parametrize("differing", [False, True])
@pytest.mark.parametrize("layer_ids", [(0, 1, 2, 3, 4), (0, 3, 4)], ids=str)
def test_fewer_experts_give_the_masked_models_outputs(request, tmp_path, kind, differing, layer_ids):
    """Not to the bit: the router's product and softmax have fewer columns, which are summed in another order."""
    case = request.getfixturevalue(kind)
    subnet = make_subnet(case.model.config, layer_ids, experts_by_row(5, differing), 2)
    smaller = extract(case.model, subnet, tmp_path / "small")
    found = outputs(case, smaller, full_subnet(smaller.config))
    for name, value in outputs(case, case.model, subnet).items():
        # Measured: 7e-7 of the largest, with native operators and without.
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5 * np.abs(value).max(), err_msg=name)
    full = outputs(case, case.model, make_subnet(case.model.config, layer_ids, None, 2))
    assert np.abs(full["logits"] - found["logits"]).max() > 0.1  # the experts that are gone mattered


def test_the_last_expert_is_enough_for_a_top_k_of_one(text, tmp_path):
    subnet = make_subnet(text.model.config, (0, 1), experts_by_row(1, True), 1)
    smaller = extract(text.model, subnet, tmp_path / "small")
    found, expected = outputs(text, smaller, full_subnet(smaller.config)), outputs(text, text.model, subnet)
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-5, atol=1e-5)


def test_layers_that_are_dense_alone_need_no_experts(text, tmp_path):
    config = dataclasses.replace(text.model.config, num_nextn_predict_layers=0)
    model = stirred(Ernie5ForCausalLM(config))
    subnet = make_subnet(config, (0,), experts_by_row(5, True)[:LAYERS], 2)
    smaller = extract(model, subnet, tmp_path / "small")
    case = Case(model, text.batch)
    np.testing.assert_array_equal(
        outputs(case, smaller, full_subnet(smaller.config))["logits"], outputs(case, model, subnet)["logits"]
    )


def test_bfloat16_weights_stay_as_they_are(text, tmp_path):
    """Bits in, bits out, of what is moved and of what is cut."""
    tensors = {name: tensor.numpy() for name, tensor in text.model.state_dict().items()}
    halves = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in tensors.items()}
    subnet = make_subnet(text.model.config, (0, 2), experts_by_row(5, True), 2)
    smaller = extracted_config(text.model.config, subnet, "smaller")
    save_folder(smaller, extracted_tensors(halves, text.model.config, subnet), tmp_path / "small")
    found = load_weights(tmp_path / "small", smaller)
    kept = subnet.experts_kept()[2]
    np.testing.assert_array_equal(
        found["decoder.layers.1.input_layernorm.weight"], halves["decoder.layers.2.input_layernorm.weight"]
    )
    name = "mlp.experts.down_proj"
    np.testing.assert_array_equal(found[f"decoder.layers.1.{name}"], halves[f"decoder.layers.2.{name}"][kept])
    np.testing.assert_array_equal(
        found["mtp.block." + name], halves["mtp.block." + name][subnet.experts_kept()[LAYERS]]
    )
    assert {array.dtype for array in load_tensors(tmp_path / "small").values()} == {np.dtype(np.uint16)}


@pytest.mark.parametrize(
    "layer_ids, kept, top_k, message",
    [
        ((), None, 2, "keep at least one of 0 to 4"),
        ((0, 7), None, 2, "keep at least one of 0 to 4"),
        ((2, 1), None, 2, "in rising order"),
        ((1, 1), None, 2, "each once"),
        ((0, 1), experts_by_row(2, False), 3, "top-k 3: must lie between 1 and .* \\(2\\)"),
        ((0, 1), None, 0, "top-k 0"),
    ],
)
def test_what_is_no_model_is_refused(config, layer_ids, kept, top_k, message):
    with pytest.raises(UserError, match=message):
        extracted_config(config, make_subnet(config, layer_ids, kept, top_k), "smaller")


def test_layers_with_other_numbers_of_experts_are_refused_and_named(config):
    kept = experts_by_row(4, False)
    kept[2, 7] = True
    with pytest.raises(UserError, match="4 in layer 1, 5 in layer 2, 4 in the prediction block; keep as many"):
        extracted_config(config, make_subnet(config, (0, 1, 2), kept, 2), "smaller")
    extracted_config(config, make_subnet(config, (0, 1, 3), kept, 2), "smaller")  # the layer is not kept
    kept[2, 7], kept[0] = False, True
    extracted_config(config, make_subnet(config, (0, 1, 2), kept, 2), "smaller")  # the layer is dense


@pytest.mark.parametrize("layer_ids", [(0, 1, 2, 4), (0, 1, 2, 3), (4,)], ids=str)
def test_the_layers_behind_which_codes_of_audio_are_read_have_to_stay(four, layer_ids):
    config = four.model.config
    with pytest.raises(UserError, match="keep layers 3 to 4, behind which the 2 levels"):
        extracted_config(config, make_subnet(config, layer_ids, None, 2), "smaller")
