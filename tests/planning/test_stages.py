from dataclasses import replace
from pathlib import Path

import pytest

from ernie5.config.load import load_model_config
from ernie5.config.schema import ModelConfig
from ernie5.planning.layout import Layout
from ernie5.planning.parameters import count_parameters, flops_per_token
from ernie5.planning.stages import cut_layers, piece_flops, tail_flops
from ernie5.planning.tensors import rank_parameters
from tests.planning.cases import VARIANTS

SEQ_LEN = 64
MODELS = sorted((Path(__file__).parents[2] / "configs/model").glob("*.yaml"))
CUTS = [(1, 1), (2, 1), (3, 1), (4, 2), (8, 1), (2, 3)]


@pytest.mark.parametrize(("pipeline", "virtual"), CUTS)
@pytest.mark.parametrize("model", VARIANTS.values(), ids=VARIANTS)
def test_pieces_hold_every_layer_once(model: ModelConfig, pipeline: int, virtual: int):
    pieces = [piece for rank in cut_layers(model, pipeline, virtual, SEQ_LEN) for piece in rank]
    dense = model.num_hidden_layers if model.moe.num_experts == 0 else model.moe.num_dense_layers
    assert sum(piece.layers for piece in pieces) == model.num_hidden_layers
    assert sum(piece.dense_layers for piece in pieces) == dense
    assert [piece.is_first for piece in pieces].count(True) == [piece.is_last for piece in pieces].count(True) == 1


def test_pieces_go_round_the_ranks():
    model = VARIANTS["mixed"]
    model = replace(model, moe=replace(model.moe, num_dense_layers=4))
    (first, third), (second, last) = cut_layers(model, 2, 2, SEQ_LEN)
    assert (first.is_first, last.is_last) == (True, True)
    assert first.dense_layers + second.dense_layers == 4
    assert third.dense_layers == 0


@pytest.mark.parametrize("pipeline", range(2, 9))
def test_no_other_even_cut_has_a_lighter_heaviest_piece(pipeline: int):
    model = VARIANTS["all_sparse"]
    cut = cut_layers(model, pipeline, 1, SEQ_LEN)
    heaviest = max(piece_flops(model, SEQ_LEN, pieces[0]).total for pieces in cut)
    layer = (flops_per_token(model, SEQ_LEN) - 2 * model.hidden_size * model.vocab_size) / model.num_hidden_layers
    tail = tail_flops(model, SEQ_LEN).total
    others = [
        max(last * layer + tail, -(-(model.num_hidden_layers - last) // (pipeline - 1)) * layer)
        for last in range(model.num_hidden_layers - pipeline + 2)
    ]
    assert heaviest == pytest.approx(min(others))


@pytest.mark.parametrize("model", VARIANTS.values(), ids=VARIANTS)
def test_flops_of_the_pieces_are_those_of_the_model(model: ModelConfig):
    pieces = [piece for rank in cut_layers(model, 4, 2, SEQ_LEN) for piece in rank]
    head = 2 * model.hidden_size * model.vocab_size
    with_block = sum(piece_flops(model, SEQ_LEN, piece).total for piece in pieces)
    without_block = with_block - (tail_flops(model, SEQ_LEN).total - head)
    assert without_block == pytest.approx(flops_per_token(model, SEQ_LEN))


LAYOUTS = [
    Layout(),
    Layout(tensor=4, expert=4),
    Layout(pipeline=4, data=2, expert=2),
    Layout(tensor=2, pipeline=2, virtual_stages=3, data=8, expert=16),
]


def sum_over_ranks(model: ModelConfig, layout: Layout) -> int:
    """Every rank of a pipeline, tensor and expert group, what several of them hold counted once."""
    held = [rank_parameters(model, layout, SEQ_LEN, rank) for rank in range(layout.pipeline)]
    whole = sum(one.whole + one.frozen for one in held) + held[0].tied
    return whole + sum(layout.tensor * one.cut + layout.expert * one.experts for one in held)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_of_all_ranks_are_those_of_the_model(name: str, layout: Layout):
    model = VARIANTS[name]
    if model.moe.num_experts == 0:
        layout = Layout(**vars(layout) | {"expert": 1})
    assert sum_over_ranks(model, layout) == count_parameters(model).total


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_parameters_of_shipped_models_are_kept(path: Path):
    model = load_model_config(path)
    layout = Layout(tensor=2, pipeline=2, expert=4)
    assert sum_over_ranks(model, layout) == count_parameters(model).total


def test_the_embedding_is_held_twice_where_the_last_rank_reads_it():
    for model in VARIANTS.values():
        ends = [rank_parameters(model, Layout(pipeline=3), SEQ_LEN, rank).tied for rank in range(3)]
        assert ends == [96 * 24, 0, 96 * 24]
    alone = replace(VARIANTS["untied"], num_nextn_predict_layers=0)
    assert rank_parameters(alone, Layout(pipeline=2), SEQ_LEN, 1).tied == 0
    assert rank_parameters(VARIANTS["mixed"], Layout(), SEQ_LEN, 0).tied == 0
