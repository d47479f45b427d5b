"""A sub-network run inside the full model equals the smaller model that is cut out of it by hand."""

import dataclasses

import numpy as np
import paddle
import pytest

from ernie5.modality.batch import make_batch
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import full_subnet, make_subnet
from tests.sequences import packed_batch, random_documents

MTP = 3  # row of the prediction block behind three layers


@pytest.fixture
def batch(config):
    return make_batch(packed_batch([random_documents([9, 7], config.vocab_size)], length=18))


def losses_and_gradients(model: Ernie5ForCausalLM, batch, subnet):
    model.clear_gradients()
    result = model(batch, subnet)
    (result.text + result.mtp).backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    return [float(result.text), float(result.mtp)], gradients


def assert_close(gradient: np.ndarray, expected: np.ndarray, name: str) -> None:
    """The same sums, run over rows in another order."""
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max(), err_msg=name)


def load(model: Ernie5ForCausalLM, state: dict[str, np.ndarray]) -> Ernie5ForCausalLM:
    missing, unexpected = model.set_state_dict(state)
    assert not missing and not unexpected
    return model


def without_layers(model: Ernie5ForCausalLM, layer_ids: tuple[int, ...]) -> tuple[Ernie5ForCausalLM, dict[str, str]]:
    """A model built with these layers alone, and the name in the full model of each of its tensors."""
    dense = sum(layer_id < model.config.moe.num_dense_layers for layer_id in layer_ids)
    moe = dataclasses.replace(model.config.moe, num_dense_layers=dense)
    smaller = Ernie5ForCausalLM(dataclasses.replace(model.config, num_hidden_layers=len(layer_ids), moe=moe))
    origin = {}
    for name in smaller.state_dict():
        origin[name] = name
        for new, old in enumerate(layer_ids):
            if name.startswith(f"decoder.layers.{new}."):
                origin[name] = name.replace(f"layers.{new}.", f"layers.{old}.", 1)
    state = model.state_dict()
    return load(smaller, {name: state[old].numpy() for name, old in origin.items()}), origin


@pytest.mark.parametrize("layer_ids", [(0, 2), (0,), (1, 2), (0, 1, 2)], ids=str)
def test_skipped_layers_are_as_if_they_were_not_there(config, build, batch, layer_ids):
    model = build(config)
    subnet = make_subnet(config, layer_ids, None, 2)
    smaller, origin = without_layers(model, layer_ids)
    losses, gradients = losses_and_gradients(model, batch, subnet)
    expected, expected_gradients = losses_and_gradients(smaller, batch, full_subnet(smaller.config))
    assert losses == pytest.approx(expected, rel=1e-6)
    assert gradients.keys() == {origin[name] for name in expected_gradients}
    for name, gradient in expected_gradients.items():
        assert_close(gradients[origin[name]], gradient, name)


def only_experts(tensor: np.ndarray, name: str, kept: np.ndarray) -> np.ndarray:
    if name.endswith("mlp.gate.weight"):
        return tensor[:, kept]
    if ".experts." in name or name.endswith("expert_bias"):
        return tensor[kept]
    return tensor


def row_of(name: str) -> int:
    return MTP if name.startswith("mtp.") else int(name.split(".")[2])


@pytest.mark.parametrize("same_everywhere", [True, False])
def test_masked_experts_are_as_if_they_were_not_there(config, build, batch, same_everywhere):
    model = build(config)
    rng = np.random.default_rng(3)
    chosen = [np.sort(rng.permutation(8)[:5]) for _ in range(4)]
    if same_everywhere:
        chosen = [chosen[0]] * 4
    keep = np.zeros([4, 8], bool)
    for row, experts in zip(keep, chosen, strict=True):
        row[experts] = True
    narrower = Ernie5ForCausalLM(dataclasses.replace(config, moe=dataclasses.replace(config.moe, num_experts=5)))
    state = {
        name: only_experts(tensor.numpy(), name, chosen[row_of(name)]) if ".mlp." in name else tensor.numpy()
        for name, tensor in model.state_dict().items()
    }
    load(narrower, state)
    losses, gradients = losses_and_gradients(model, batch, make_subnet(config, (0, 1, 2), keep, 2))
    expected, expected_gradients = losses_and_gradients(narrower, batch, full_subnet(narrower.config))
    assert losses == pytest.approx(expected, rel=1e-6)
    for name, gradient in expected_gradients.items():
        ours = only_experts(gradients[name], name, chosen[row_of(name)]) if ".mlp." in name else gradients[name]
        assert_close(ours, gradient, name)


def test_masked_experts_get_neither_tokens_nor_gradients(config, build, batch):
    model = build(config)
    keep = np.ones([4, 8], bool)
    keep[:, 5:] = False
    result = model(batch, make_subnet(config, (0, 1, 2), keep, 2))
    (result.text + result.mtp).backward()
    for layer_id, load_of_layer in result.tokens_per_expert.items():
        assert load_of_layer.numpy()[5:].tolist() == [0, 0, 0]
        mlp = model.blocks()[layer_id].mlp
        for weight in (mlp.experts.gate_up_proj, mlp.experts.down_proj):
            assert (weight.grad.numpy()[5:] == 0).all()
        # Paddle's softmax on CPU takes exp(-64) = 2e-28 for exp(-inf).
        assert float(mlp.gate.weight.grad[:, 5:].abs().max()) < 1e-25


@pytest.mark.parametrize("top_k", [1, 3, 8])
def test_top_k_of_the_subnet_is_that_of_a_model_built_with_it(config, build, batch, top_k):
    model = build(config)
    other = build(dataclasses.replace(config, moe=dataclasses.replace(config.moe, num_experts_per_tok=top_k)))
    losses, _ = losses_and_gradients(model, batch, make_subnet(config, (0, 1, 2), None, top_k))
    expected, _ = losses_and_gradients(other, batch, full_subnet(other.config))
    assert losses == expected


def test_full_subnet_keeps_everything(config):
    subnet = full_subnet(config)
    assert subnet.layer_ids == (0, 1, 2) and subnet.top_k == 2
    assert subnet.experts_kept().shape == (4, 8) and subnet.experts_kept().all()


def test_expert_mask_is_zero_where_kept_and_minus_infinity_elsewhere(config):
    keep = np.ones([4, 8], bool)
    keep[2, 3] = False
    mask = make_subnet(config, (0, 2), keep, 2).expert_mask
    assert mask.dtype == paddle.float32
    np.testing.assert_array_equal(mask.numpy(), np.where(keep, 0, -np.inf))
