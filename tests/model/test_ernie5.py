"""The whole model: walls between documents, causality, its losses and their gradients."""

import dataclasses
import re

import numpy as np
import paddle
import pytest

from ernie5.layers.layout import make_layout
from ernie5.modality.batch import make_batch
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import full_subnet
from tests.sequences import packed_batch, random_documents

VOCAB = 96
ATOL = 1e-5  # logits of a few units, whose sums run in another order in another shape


def outputs(model: Ernie5ForCausalLM, rows) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the next and of the second-next token, [batch, seq, vocab] each."""
    batch, subnet = make_batch(rows), full_subnet(model.config)
    layout = make_layout(batch.mask_rows, batch.position_ids, model.config.attention)
    decoded = model.decoder(model.text.embed(batch.input_ids), layout, subnet)
    second = model.predict_second_next(decoded.residual, model.text.embed(batch.next_ids), layout, subnet)
    return model.logits(decoded.hidden_states).numpy(), model.logits(second.hidden_states).numpy()


def losses(model: Ernie5ForCausalLM, rows):
    return model(make_batch(rows), full_subnet(model.config))


@pytest.mark.parametrize("lengths", [(9, 4, 1, 20), (1, 1, 30), (13,)], ids=str)
def test_a_packed_document_s_logits_equal_its_logits_alone(config, build, lengths):
    model = build(config)
    documents = random_documents(lengths, VOCAB)
    packed = outputs(model, packed_batch([documents], length=40))
    start = 0
    for ids in documents:
        alone = outputs(model, packed_batch([[ids]]))
        for together, single in zip(packed, alone, strict=True):
            np.testing.assert_allclose(together[0, start : start + len(ids)], single[0], rtol=0, atol=ATOL)
        start += len(ids)


def test_losses_of_packed_documents_are_the_sums_of_their_losses_alone(config, build):
    model = build(config)
    documents = random_documents([9, 4, 20], VOCAB)
    packed = losses(model, packed_batch([documents], length=40))
    alone = [losses(model, packed_batch([[ids]])) for ids in documents]
    assert float(packed.text) == pytest.approx(sum(float(single.text) for single in alone), rel=1e-6)
    assert float(packed.mtp) == pytest.approx(sum(float(single.mtp) for single in alone), rel=1e-6)


def test_rows_of_a_batch_do_not_see_each_other(config, build):
    model = build(config)
    documents = random_documents([12, 5, 7], VOCAB)
    rows = [[documents[0]], documents[1:]]
    both = outputs(model, packed_batch(rows, length=12))
    for i, row in enumerate(rows):
        for together, single in zip(both, outputs(model, packed_batch([row], length=12)), strict=True):
            np.testing.assert_allclose(together[i], single[0], rtol=0, atol=ATOL)


@pytest.mark.parametrize("changed", [0, 6, 11])
def test_a_token_reaches_its_own_and_later_positions_alone(config, build, changed):
    """Next-token logits at i see tokens up to i; the prediction block at i also sees token i + 1."""
    model = build(config)
    [ids] = random_documents([12], VOCAB)
    other = [*ids]
    other[changed] = ids[changed] % (VOCAB - 1) + 1
    (text, mtp), (text_other, mtp_other) = (outputs(model, packed_batch([[x]])) for x in (ids, other))
    np.testing.assert_allclose(text[:, :changed], text_other[:, :changed], rtol=0, atol=ATOL)
    assert (np.abs(text - text_other)[0, changed:].max(-1) > 1e-3).all()
    before = max(changed - 1, 0)
    np.testing.assert_allclose(mtp[:, :before], mtp_other[:, :before], rtol=0, atol=ATOL)
    assert (np.abs(mtp - mtp_other)[0, before:].max(-1) > 1e-3).all()


def test_losses_are_those_of_the_logits(config, build):
    model = build(config)
    rows = packed_batch([random_documents([9, 4], VOCAB), random_documents([13], VOCAB, seed=1)])
    batch = make_batch(rows)
    for logits, loss, labels in zip(
        outputs(model, rows), losses(model, rows)[:2], (batch.labels, batch.mtp_labels), strict=True
    ):
        logits, labels = logits.astype(np.float64), labels.numpy()
        log_z = np.log(np.exp(logits).sum(-1))
        predicted = labels >= 0
        expected = (log_z - np.take_along_axis(logits, np.where(predicted, labels, 0)[..., None], -1)[..., 0])[
            predicted
        ]
        assert float(loss) == pytest.approx(expected.sum(), rel=1e-5)


def test_text_loss_alone_is_the_same_loss(config, build):
    model = build(config)
    rows = packed_batch([random_documents([9, 4], VOCAB)])
    alone = model.validation_losses(make_batch(rows), full_subnet(config)).text
    assert float(alone) == float(losses(model, rows).text)


def test_load_is_reported_for_the_layers_that_route_and_no_slot_is_lost(config, build):
    rows = packed_batch([random_documents([9, 4], VOCAB)], length=16)
    loads = losses(build(config), rows).tokens_per_expert
    assert sorted(loads) == [1, 2, 3]  # 0 is dense, 3 is the prediction block
    assert [int(load.sum()) for load in loads.values()] == [16 * config.moe.num_experts_per_tok] * 3


def test_a_model_without_prediction_block_has_no_such_loss(config, build):
    model = build(dataclasses.replace(config, num_nextn_predict_layers=0))
    result = losses(model, packed_batch([random_documents([9], VOCAB)]))
    assert result.mtp is None and sorted(result.tokens_per_expert) == [1, 2]


def test_a_dense_model_routes_nothing(config, build):
    moe = dataclasses.replace(config.moe, num_experts=0, num_dense_layers=0, num_experts_per_tok=0)
    result = losses(build(dataclasses.replace(config, moe=moe)), packed_batch([random_documents([9], VOCAB)]))
    assert result.tokens_per_expert == {} and np.isfinite(float(result.text + result.mtp))


def test_the_same_seed_builds_the_same_model(config):
    states = []
    for _ in range(2):
        paddle.seed(11)
        states.append({name: tensor.numpy() for name, tensor in Ernie5ForCausalLM(config).state_dict().items()})
    for name, tensor in states[0].items():
        np.testing.assert_array_equal(tensor, states[1][name], err_msg=name)


def test_another_seed_builds_another_model(config):
    weights = []
    for seed in (1, 2):
        paddle.seed(seed)
        weights.append(Ernie5ForCausalLM(config).text.embed_tokens.weight.numpy())
    assert (weights[0] != weights[1]).all()


def test_new_matrices_have_the_initializer_s_spread_and_norms_are_one(config):
    for name, parameter in Ernie5ForCausalLM(config).named_parameters():
        if "norm" in name:
            assert (parameter.numpy() == 1).all(), name
        else:
            spread = float(parameter.std())
            assert spread == pytest.approx(config.initializer_range, rel=5 / np.sqrt(2 * parameter.size)), name


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def trained(request, config, build):
    """A model, its batch, its objective and every parameter's gradient. All experts are chosen, so that the objective
    is smooth; the choice itself is tried in the router's tests."""
    moe = dataclasses.replace(config.moe, num_experts=4, num_experts_per_tok=4)
    attention = dataclasses.replace(config.attention, use_bias=True)
    model = build(dataclasses.replace(config, moe=moe, attention=attention, tie_word_embeddings=request.param))
    batch = make_batch(packed_batch([random_documents([9, 6], VOCAB), random_documents([11, 1], VOCAB, 1)], length=16))

    def objective() -> paddle.Tensor:
        result = model(batch, full_subnet(model.config))
        return (result.text + 0.3 * result.mtp) / 23

    objective().backward()
    return model, objective


def test_every_parameter_gets_a_gradient(trained):
    model, _ = trained
    silent = [name for name, p in model.named_parameters() if p.grad is None or not float(p.grad.abs().max()) > 0]
    assert not silent


def test_sparse_routing_leaves_no_weight_of_a_busy_expert_without_gradient(config, build):
    model = build(config)
    result = losses(model, packed_batch([random_documents([64], VOCAB)]))
    (result.text + result.mtp).backward()
    for layer_id, load in result.tokens_per_expert.items():
        experts = model.blocks()[layer_id].mlp.experts
        for weight in (experts.gate_up_proj, experts.down_proj):
            reached = weight.grad.abs().max([1, 2]).numpy() > 0
            np.testing.assert_array_equal(reached, load.numpy() > 0)


def test_gradients_equal_central_differences_of_the_whole_objective(trained):
    """Along two random directions of each parameter: float32 leaves too few digits for single coordinates."""
    model, objective = trained
    rng = np.random.default_rng(0)
    checked = set()
    for name, parameter in model.named_parameters():
        kind = re.sub(r"layers\.\d+", "layers.*", name)
        if kind in checked:
            continue
        checked.add(kind)
        start, gradient = parameter.numpy(), parameter.grad.numpy()
        norm = np.linalg.norm(gradient)
        step = min(0.02, 2e-3 / norm)  # far enough for a difference that float32 shows, near enough for a straight line
        for _ in range(2):
            random = rng.normal(size=start.shape)
            direction = (gradient / norm + random / np.linalg.norm(random)).astype(np.float32)
            values = []
            for sign in (1, -1):
                parameter.set_value(start + np.float32(sign * step) * direction)
                with paddle.no_grad():
                    values.append(float(objective()))
            parameter.set_value(start)
            slope = (values[0] - values[1]) / (2 * step)
            expected = float((gradient * direction).sum())
            assert abs(expected) > 1e-3, f"{name}: too small to be told from rounding"
            assert slope == pytest.approx(expected, rel=2e-2, abs=2e-4), name
