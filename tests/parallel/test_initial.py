"""Weights drawn by name: the same for every piece, nothing held that is not here; and Paddle's part in it."""

import subprocess
import sys

import numpy as np
import paddle
import pytest

from ernie5.config.load import load_model_config
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.undrawn import undrawn
from ernie5.parallel.cutting import cut_parameter
from ernie5.parallel.initial import draw, is_drawn
from ernie5.parallel.pieces import Cut
from tests.runs import ROOT

DIGITS = ROOT / "configs" / "model" / "digits.yaml"


def built(seed: int = 3) -> Ernie5ForCausalLM:
    model = undrawn(lambda: Ernie5ForCausalLM(load_model_config(DIGITS)))
    draw(model, seed, {})
    return model


@pytest.fixture(scope="module")
def whole() -> dict[str, np.ndarray]:
    return {name: one.numpy() for name, one in built().named_parameters()}


def test_undrawn_parameters_have_shapes_and_no_values():
    model = undrawn(lambda: Ernie5ForCausalLM(load_model_config(DIGITS)))
    assert not any(is_drawn(one) for one in model.parameters())
    drawn = Ernie5ForCausalLM(load_model_config(DIGITS))
    described = [
        [(name, list(one.shape), one.dtype, one.stop_gradient) for name, one in of.named_parameters()]
        for of in (model, drawn)
    ]
    assert described[0] == described[1]
    assert all(is_drawn(buffer) for _, buffer in model.named_buffers())


def test_weights_are_a_function_of_the_seed(whole):
    paddle.seed(99)  # whatever was drawn before
    again, other = (dict(built(seed).named_parameters()) for seed in (3, 4))
    for name, values in whole.items():
        np.testing.assert_array_equal(again[name].numpy(), values, err_msg=name)
        assert values.std() == 0 or (other[name].numpy() != values).any(), name


def test_weights_are_distributed_as_the_layers_say(whole):
    """Against a model that draws them itself: of each parameter mean and deviation, within four standard errors."""
    for name, parameter in Ernie5ForCausalLM(load_model_config(DIGITS)).named_parameters():
        theirs, ours = parameter.numpy().astype("float64"), whole[name].astype("float64")
        error = 4 * np.sqrt(2 / theirs.size) * theirs.std()
        assert abs(theirs.mean() - ours.mean()) <= error + 1e-12, name
        assert abs(theirs.std() - ours.std()) <= error + 1e-12, name


def test_no_two_matrices_are_alike(whole):
    """Of a stack each expert is one."""
    random = {name: one for name, one in whole.items() if one.ndim > 1 and one.std()}
    firsts = [row for name, one in random.items() for row in (one[:, 0] if ".experts." in name else one[:1])]
    starts = {tuple(row.ravel()[:4].tolist()) for row in firsts}
    assert len(starts) == len(firsts)


@pytest.mark.parametrize(
    ("layer", "key", "axis"),
    [
        ("decoder.layers.1.mlp.experts", "gate_up_proj", 0),
        ("decoder.layers.1.mlp.experts", "down_proj", 0),
        ("decoder.layers.1.self_attn.q_proj", "weight", 1),
        ("decoder.layers.1.self_attn.o_proj", "weight", 0),
        ("vision_generation.bit_head", "bias", 0),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_piece_is_that_of_the_whole(whole, layer, key, axis, place):
    model, name, cut = (
        undrawn(lambda: Ernie5ForCausalLM(load_model_config(DIGITS))),
        f"{layer}.{key}",
        Cut(axis, place, 2),
    )
    owner = dict(model.named_sublayers())[layer]
    cut_parameter(owner, key, cut)
    assert not is_drawn(getattr(owner, key))
    draw(model, 3, {name: cut})
    for other, parameter in model.named_parameters():
        expected = cut.piece(whole[other]) if other == name else whole[other]
        np.testing.assert_array_equal(parameter.numpy(), expected, err_msg=other)


def test_a_drawn_parameter_is_cut_by_value(whole):
    model, cut = built(), Cut(1, 1, 2)
    cut_parameter(model.decoder.layers[1].self_attn.q_proj, "weight", cut)
    name = "decoder.layers.1.self_attn.q_proj.weight"
    np.testing.assert_array_equal(dict(model.named_parameters())[name].numpy(), cut.piece(whole[name]))


PEAK = """
import dataclasses
import sys
from resource import RUSAGE_SELF, getrusage
from ernie5.ops.runtime import start_paddle
start_paddle(1)
from ernie5.config.load import load_model_config
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.undrawn import undrawn
from ernie5.parallel.cutting import cut_parameter
from ernie5.parallel.initial import draw
from ernie5.parallel.pieces import Cut

config, degree = load_model_config(sys.argv[1]), int(sys.argv[2])
moe = dataclasses.replace(config.moe, num_experts=256, moe_intermediate_size=512)
model = undrawn(lambda: Ernie5ForCausalLM(dataclasses.replace(config, moe=moe)))
cuts = {}
for name, layer in model.named_sublayers():
    if name.endswith(".experts"):
        for key, _ in list(layer.named_parameters()):
            cuts[f"{name}.{key}"] = cut = Cut(0, 1, degree)
            cut_parameter(layer, key, cut)
before = getrusage(RUSAGE_SELF).ru_maxrss
draw(model, 0, cuts)
print(sum(one.size * 4 for one in model.parameters()), (getrusage(RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_a_process_takes_the_memory_of_its_pieces():
    """A quarter of the experts costs a quarter, beside the stack of one layer while it is put together."""

    def peak(degree: int) -> tuple[int, int]:
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(DIGITS), str(degree)], capture_output=True, text=True, cwd=ROOT, check=True
        )
        held, taken = done.stdout.split()[-2:]
        return int(held), int(taken)

    (whole, _), (quarter, taken) = peak(1), peak(4)
    assert quarter < 0.3 * whole
    assert taken < 1.5 * quarter + 2**25
