import numpy as np
import paddle
import pytest
from paddle import nn

from ernie5.errors import UserError
from ernie5.model.weights import assign, load_tensors, save_tensors
from ernie5.train.optimizer_state import export_optimizer, import_optimizer


class Net(nn.Layer):
    """Two branches, of which a step may take one: the other's parameters then get no gradient."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.late = nn.Linear(4, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, x, with_late):
        hidden = self.norm(self.embed(x))
        return self.head(self.late(hidden) if with_late else hidden)


def build():
    paddle.seed(3)
    net = Net()
    decayed = {parameter.name for parameter in net.parameters() if parameter.ndim > 1}
    optimizer = paddle.optimizer.AdamW(
        1e-2,
        parameters=net.parameters(),
        weight_decay=0.1,
        apply_decay_param_fun=lambda name: name in decayed,
        grad_clip=nn.ClipGradByGlobalNorm(1.0),
    )
    return net, optimizer


def named(layer):
    return dict(layer.named_parameters())


def train(net, optimizer, steps, late_from):
    losses = []
    for step in steps:
        x = paddle.to_tensor(np.random.default_rng(step).standard_normal((5, 3)), dtype="float32")
        loss = (net(x, step >= late_from) - 1).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("late_from", [0, 4, 6])  # with state in both parts, in the second only, in the first half only
def test_a_resumed_optimizer_continues_bit_for_bit(tmp_path, late_from):
    net, optimizer = build()
    expected = train(net, optimizer, range(10), late_from)

    net, optimizer = build()
    losses = train(net, optimizer, range(5), late_from)
    save_tensors(dict(net.named_parameters()), tmp_path, "model")
    save_tensors(export_optimizer(optimizer, named(net)), tmp_path, "optimizer")
    nn.Linear(2, 2)  # shifts the names that Paddle gives to what is built next
    net, optimizer = build()
    assign(net.named_parameters(), load_tensors(tmp_path, "model"), "model")
    import_optimizer(optimizer, named(net), load_tensors(tmp_path, "optimizer"), "optimizer")
    assert losses + train(net, optimizer, range(5, 10), late_from) == expected


def test_state_is_named_by_structure_whatever_was_built_before():
    nn.Linear(2, 2)
    net, optimizer = build()
    train(net, optimizer, [0], late_from=1)
    names = {f"{layer}.{part}" for layer in ("embed", "norm", "head") for part in ("weight", "bias")}
    states = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")
    assert export_optimizer(optimizer, named(net)).keys() == {f"{name}/{state}" for name in names for state in states}


def test_an_optimizer_that_never_stepped_has_no_state_and_takes_none():
    net, optimizer = build()
    assert export_optimizer(optimizer, named(net)) == {}
    import_optimizer(optimizer, named(net), {}, "here")
    assert export_optimizer(optimizer, named(net)) == {}


def test_importing_twice_keeps_the_second_state():
    net, optimizer = build()
    train(net, optimizer, [0], late_from=1)
    state = {name: tensor.numpy().copy() for name, tensor in export_optimizer(optimizer, named(net)).items()}
    train(net, optimizer, [1, 2], late_from=9)
    import_optimizer(optimizer, named(net), state, "here")
    for name, tensor in export_optimizer(optimizer, named(net)).items():
        np.testing.assert_array_equal(tensor.numpy(), state[name])


def test_master_weights_of_bfloat16_parameters_come_along():
    """AdamW has no bfloat16 kernel on a CPU, so the state is made without a step."""
    layer = nn.Linear(3, 4).to(dtype="bfloat16")
    exported = {}
    for value in (0.1, 0.0):
        optimizer = paddle.optimizer.AdamW(1e-2, parameters=layer.parameters(), multi_precision=True)
        optimizer._create_accumulators(paddle.static.default_main_program().global_block(), layer.parameters())
        found = export_optimizer(optimizer, named(layer))
        if value:
            found["weight/master_weight"].set_value(np.full((3, 4), value, np.float32))
            found["weight/moment1"].set_value(np.full((3, 4), value, np.float32))
            exported = {name: tensor.numpy().copy() for name, tensor in found.items()}
    import_optimizer(optimizer, named(layer), exported, "here")
    found = export_optimizer(optimizer, named(layer))
    assert found["weight/master_weight"].dtype == paddle.float32
    assert float(found["weight/master_weight"][0, 0]) == float(found["weight/moment1"][0, 0]) == np.float32(0.1)


def test_state_of_an_unknown_parameter_is_refused_by_name():
    net, optimizer = build()
    with pytest.raises(UserError, match="here: optimizer state of 'tail.weight', which the model lacks"):
        import_optimizer(optimizer, named(net), {"tail.weight/moment1": np.zeros(3, np.float32)}, "here")


def test_incomplete_state_is_refused_by_name():
    net, optimizer = build()
    with pytest.raises(UserError, match=r"3 missing \(embed.weight/beta1_pow_acc; embed.weight/beta2_pow_acc"):
        import_optimizer(optimizer, named(net), {"embed.weight/moment1": np.zeros((3, 4), np.float32)}, "here")
