"""Even shares of tensors, and parameters of which an optimizer steps a run."""

import numpy as np
import paddle
import pytest
from paddle import nn

from ernie5.config.schema import OptimizerConfig
from ernie5.model.safetensors_file import map_file, write_file
from ernie5.parallel.pieces import WHOLE, Cut
from ernie5.parallel.runs import Run, elements, run_parameter, shares
from ernie5.train.optimizer import build_optimizer, clip_grad_norm
from ernie5.train.optimizer_state import export_optimizer, import_optimizer, state_cuts

SHAPES = {"matrix": [6, 5], "norm": [20]}
START, STOP = 7, 18  # of each


@pytest.mark.parametrize("owners", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("sizes", [[40, 1, 1, 900, 3, 0, 55], [5], [1, 1], []])
def test_shares_are_even_to_one_element_and_have_each_element_once(sizes, owners):
    found, owned = shares(sizes, owners), [0] * owners
    for share in found:
        owned[share.owner] += share.stop - share.start
    assert max(owned) - min(owned) <= 1
    elements_of = [(share.index, i) for share in found for i in range(share.start, share.stop)]
    assert elements_of == [(index, i) for index, size in enumerate(sizes) for i in range(size)]
    assert [share.owner for share in found] == sorted(share.owner for share in found)
    assert len(found) <= len(sizes) + owners - 1  # only what lies at an edge is split


def test_alone_everything_is_whole():
    assert shares([4, 2], 1) == [(0, 0, 4, 0), (1, 0, 2, 0)]


@pytest.mark.parametrize("cut", [WHOLE, Cut(0, 1, 2), Cut(1, 0, 2), Cut(2, 1, 3)], ids=str)
@pytest.mark.parametrize("ends", [(0, 8), (3, 5), (1, 23), (11, 24), (0, 24)])
def test_a_run_has_the_elements_of_its_piece_in_order(cut, ends):
    whole = np.arange(4 * 4 * 6).reshape(4, 4, 6)
    piece = cut.piece(whole)
    own = cut._replace(run=Run(piece.shape, *ends)).piece(whole)
    np.testing.assert_array_equal(own, piece.flatten()[slice(*ends)])


def test_a_run_of_a_mapped_file_is_read_from_where_it_lies(tmp_path):
    write_file(tmp_path / "a.safetensors", {"a": np.arange(2**16, dtype=np.float32).reshape(256, 256)})
    mapped = map_file(tmp_path / "a.safetensors")["a"]
    own = WHOLE._replace(run=Run(mapped.shape, 1000, 3000)).piece(mapped)
    assert own.ctypes.data == mapped.ctypes.data + 4000 and own.tolist() == list(range(1000, 3000))


class Net(nn.Layer):
    """A matrix, and a vector that is not decayed."""

    def __init__(self, dtype: str):
        super().__init__()
        rng = np.random.default_rng(0)
        self.matrix, self.norm = (
            self.create_parameter(shape, dtype=dtype, default_initializer=nn.initializer.Constant(0))
            for shape in SHAPES.values()
        )
        for one in self.parameters():
            one.set_value(paddle.to_tensor(rng.normal(size=one.shape).astype(np.float32)).astype(dtype))
        self.matrix.optimize_attr["learning_rate"] = 0.5


def gradients(step: int, dtype: str) -> dict[str, paddle.Tensor]:
    rng = np.random.default_rng(step + 1)
    made = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    return {name: paddle.to_tensor(array).astype(dtype) for name, array in made.items()}


def runs_of(net: Net) -> dict[str, paddle.Tensor]:
    return {name: run_parameter(one, Run(tuple(one.shape), START, STOP)) for name, one in net.named_parameters()}


def steps(stepped: dict[str, paddle.Tensor], optimizer, dtype: str, numbers) -> None:
    """Clipped as a whole model would be, whose other gradients count too."""
    for step in numbers:
        all_of_it = gradients(step, dtype)
        for name, one in stepped.items():
            whole = all_of_it[name]
            one.grad = whole if one.size == whole.size else elements(whole, START, STOP).clone()
        squares = sum(float(one.astype("float32").square().sum()) for one in all_of_it.values())
        clip_grad_norm(stepped.values(), 1.0, summed=lambda _, squares=squares: squares)
        optimizer.set_lr(0.1)
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_is_stepped_bit_for_bit_as_its_parameter_and_goes_on_from_its_state(dtype):
    config = OptimizerConfig(weight_decay=0.3)
    net, split, resumed = Net(dtype), Net(dtype), Net(dtype)
    optimizer = build_optimizer(net, config)
    steps(dict(net.named_parameters()), optimizer, dtype, range(3))
    runs = runs_of(split)
    optimizers = [build_optimizer(split, config, runs)]
    steps(runs, optimizers[0], dtype, range(2))
    for name, one in split.named_parameters():
        getattr(resumed, name).set_value(one)
    again = runs_of(resumed)
    optimizers.append(build_optimizer(resumed, config, again))
    state = {name: one.numpy().copy() for name, one in export_optimizer(optimizers[0], runs).items()}
    import_optimizer(optimizers[1], again, state, "here")
    before = Net(dtype)
    for of_net, own, own_optimizer in ((split, runs, optimizers[0]), (resumed, again, optimizers[1])):
        steps(own, own_optimizer, dtype, [2])
        for name, one in of_net.named_parameters():
            found, expected, untouched = (
                x.astype("float32").flatten().numpy() for x in (one, getattr(net, name), getattr(before, name))
            )
            np.testing.assert_array_equal(found[START:STOP], expected[START:STOP])
            for others in (slice(START), slice(STOP, None)):
                np.testing.assert_array_equal(found[others], untouched[others])


def test_state_of_a_run_is_a_piece_of_the_parameters_state_but_for_the_powers():
    net = Net("float32")
    runs = runs_of(net)
    optimizer = build_optimizer(net, OptimizerConfig(), runs)
    steps(runs, optimizer, "float32", range(1))
    tensors, cut = export_optimizer(optimizer, runs), WHOLE._replace(run=Run((6, 5), START, STOP))
    cuts = state_cuts(tensors, {"matrix": cut})
    assert cuts == {"matrix/moment1": cut, "matrix/moment2": cut}
    assert tensors["matrix/moment1"].shape == [STOP - START]
