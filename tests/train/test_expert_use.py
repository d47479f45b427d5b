"""Who is sent where: counts against the routers' own, mutual information against closed forms, a run's record."""

import dataclasses

import numpy as np
import paddle
import pytest

from ernie5.inference.show import show
from ernie5.modality.unified import TokenKind
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import full_subnet
from ernie5.parallel.data_parallel import ALONE
from ernie5.parallel.parallelize import alone
from ernie5.train.evaluate import ValidationSet, evaluate
from ernie5.train.expert_use import KINDS, counts_of_all, expert_use, mutual_information, watch_experts
from ernie5.train.run import run
from tests.runs import records
from tests.sequences import packed_row, random_documents
from tests.vision_runs import vision_config

EXPERTS = 8


@pytest.fixture
def model(tiny_model_config) -> Ernie5ForCausalLM:
    moe = dataclasses.replace(tiny_model_config.moe, num_dense_layers=1)
    return Ernie5ForCausalLM(dataclasses.replace(tiny_model_config, moe=moe, intermediate_size=16))


@pytest.fixture
def rows():
    """Three rows with padding; tokens are called text and audio in turn, which the model does not know."""
    made = []
    for seed, length in enumerate((9, 12, 5)):
        row = packed_row(random_documents([length], 96, seed), 12)
        kinds = np.where(np.arange(12) % 3 == 1, TokenKind.AUDIO, TokenKind.TEXT)
        made.append(dataclasses.replace(row, token_kind=np.where(row.document_ids < 0, TokenKind.PADDING, kinds)))
    return made


def counted(model, rows, rows_per_batch) -> dict[int, np.ndarray]:
    with watch_experts(model) as watch:
        evaluate(alone(model), ValidationSet(rows, 1), full_subnet(model.config), rows_per_batch, watch=watch)
    return counts_of_all(watch, ALONE, model.config)


def test_counts_are_the_routers_choices_by_kind_without_padding(model, rows):
    chosen: dict[int, list[np.ndarray]] = {1: [], 2: []}
    for layer_id, ids in chosen.items():
        gate = model.decoder.layers[layer_id].mlp.gate
        gate.register_forward_post_hook(lambda _, inputs, routing, ids=ids: ids.append(routing.topk_ids.numpy()))
    counts = counted(model, rows, rows_per_batch=2)
    assert sorted(counts) == [1, 2]  # layer 0 is dense
    kinds = np.concatenate([row.token_kind for row in rows])
    for layer_id, ids in chosen.items():
        expected = np.zeros([len(KINDS), EXPERTS], int)
        for kind, experts in zip(kinds, np.concatenate(ids), strict=True):
            if kind != TokenKind.PADDING:
                expected[KINDS.index(kind), experts] += 1
        np.testing.assert_array_equal(counts[layer_id], expected)
    assert counts[1].sum() == model.config.moe.num_experts_per_tok * (9 + 12 + 5)


def test_counts_do_not_depend_on_the_batches(model, rows):
    one, all_at_once = (counted(model, rows, number) for number in (1, 3))
    assert all((one[layer_id] == all_at_once[layer_id]).all() for layer_id in (1, 2))


def test_watching_changes_nothing_and_ends(model, rows):
    validation, subnet, parallel = ValidationSet(rows, 1), full_subnet(model.config), alone(model)
    before = evaluate(parallel, validation, subnet, 2)
    with watch_experts(model) as watch:
        assert evaluate(parallel, validation, subnet, 2, watch=watch) == before
    seen = {layer_id: count.copy() for layer_id, count in watch.counts.items()}
    evaluate(parallel, validation, subnet, 1, watch=watch)
    assert all((watch.counts[layer_id] == seen[layer_id]).all() for layer_id in seen)


def test_record_has_the_share_of_each_kind_s_tokens(model, rows):
    counts = counted(model, rows, rows_per_batch=3)
    record = expert_use(counts, rows)
    kinds = np.concatenate([row.token_kind for row in rows])
    assert record["layers"] == [1, 2]
    assert record["tokens"] == {"text": (kinds == TokenKind.TEXT).sum(), "audio": (kinds == TokenKind.AUDIO).sum()}
    for layer_id, shares in zip(record["layers"], record["shares"], strict=True):
        assert list(shares) == ["text", "audio"]
        for name, kind in (("text", TokenKind.TEXT), ("audio", TokenKind.AUDIO)):
            assert shares[name] == pytest.approx(counts[layer_id][KINDS.index(kind)] / record["tokens"][name])
            assert sum(shares[name]) == pytest.approx(model.config.moe.num_experts_per_tok)


def test_kinds_that_use_experts_alike_tell_nothing():
    assert mutual_information(np.array([[1, 2, 3], [10, 20, 30]])) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kinds", [1, 2, 4])
def test_kinds_that_share_no_expert_tell_all(kinds):
    use = np.kron(np.diag(np.arange(1, kinds + 1)), [[1, 5]])
    assert mutual_information(use) == pytest.approx(np.log2(kinds))


def test_mutual_information_is_the_difference_of_entropies():
    use = np.random.default_rng(0).uniform(0, 1, (3, 5))
    use[1, 2] = 0
    joint = use / use.sum(1, keepdims=True) / 3

    def entropy(p):
        return -sum(x * np.log2(x) for x in p.ravel() if x > 0)

    assert mutual_information(use) == pytest.approx(entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint))


def test_router_that_parts_two_kinds_shows_one_bit(model, rows):
    """Hidden states are all-positive or all-negative by kind: text to experts 0 and 1, audio to 6 and 7."""
    router = model.decoder.layers[1].mlp.gate
    weight = np.zeros(router.weight.shape, np.float32)
    weight[0] = np.linspace(1, -1, EXPERTS)
    router.weight.set_value(weight)
    kinds = np.concatenate([row.token_kind for row in rows])
    states = np.zeros([len(kinds), weight.shape[0]], np.float32)
    states[:, 0] = np.where(kinds == TokenKind.TEXT, 1, -1)
    with watch_experts(model) as watch:
        watch.expect([kinds])
        router(paddle.to_tensor(states), paddle.zeros([EXPERTS]), 2)
    counts = watch.counts
    assert expert_use({1: counts[1]}, rows)["bits"] == [pytest.approx(1.0)]
    assert counts[1][KINDS.index(TokenKind.TEXT), :2].all() and counts[1][KINDS.index(TokenKind.AUDIO), 6:].all()


def test_run_ends_with_the_use_of_its_experts_in_log_and_report(tmp_path):
    run(vision_config(tmp_path, "train.max_steps=1"), "", show)
    (record,) = records(tmp_path / "run", "expert_use")
    assert record["step"] == 1
    assert set(record["tokens"]) == {"text", "vision_understanding", "vision_generation"}
    assert all(0 <= bits <= np.log2(3) for bits in record["bits"])
    html = (tmp_path / "run" / "report.html").read_text()
    assert "Experts of the modalities" in html and "vision drawn, expert 0: " in html
