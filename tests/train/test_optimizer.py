"""AdamW against its formula in NumPy (arXiv:1711.05101 alg. 2), and clipping."""

import math

import numpy as np
import paddle
import pytest

from ernie5.config.schema import OptimizerConfig
from ernie5.layers.moe import MoE
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.train.optimizer import build_optimizer, clip_grad_norm, first_not_finite

CONFIG = OptimizerConfig(beta1=0.8, beta2=0.9, epsilon=1e-6, weight_decay=0.3)
RATES = [1e-2, 3e-2, 2e-2, 0.0, 5e-3]


class Net(paddle.nn.Layer):
    """One parameter of each kind."""

    def __init__(self):
        super().__init__()
        self.matrix = self.create_parameter([3, 4])
        self.experts = self.create_parameter([2, 3, 4])
        self.norm = self.create_parameter([4])


def adamw(values: np.ndarray, gradients: list[np.ndarray], decay: float) -> np.ndarray:
    values, first, second = values.astype(np.float64), 0.0, 0.0
    for step, (gradient, rate) in enumerate(zip(gradients, RATES, strict=True), start=1):
        first = CONFIG.beta1 * first + (1 - CONFIG.beta1) * gradient
        second = CONFIG.beta2 * second + (1 - CONFIG.beta2) * gradient.astype(np.float64) ** 2
        mean, square = first / (1 - CONFIG.beta1**step), second / (1 - CONFIG.beta2**step)
        values = values - rate * decay * values - rate * mean / (np.sqrt(square) + CONFIG.epsilon)
    return values


@pytest.mark.parametrize("name, decay", [("matrix", 0.3), ("experts", 0.3), ("norm", 0.0)])
def test_five_steps_equal_the_formula_and_vectors_are_not_decayed(name, decay):
    net = Net()
    for parameter in net.parameters():
        parameter.set_value(np.random.normal(2, 1, parameter.shape).astype(np.float32))
    optimizer = build_optimizer(net, CONFIG)
    parameter = getattr(net, name)
    start = parameter.numpy()
    gradients = [np.random.normal(size=start.shape).astype(np.float32) for _ in RATES]
    for gradient, rate in zip(gradients, RATES, strict=True):
        (parameter * paddle.to_tensor(gradient)).sum().backward()
        optimizer.set_lr(rate)
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
    np.testing.assert_allclose(parameter.numpy(), adamw(start, gradients, decay), rtol=1e-5, atol=1e-6)


def test_every_norm_is_excluded_from_decay_and_every_matrix_is_not(tiny_model_config):
    model = Ernie5ForCausalLM(tiny_model_config)
    decays = build_optimizer(model, CONFIG)._apply_decay_param_fun
    for name, parameter in model.named_parameters():
        assert decays(parameter.name) == ("norm" not in name), name


def test_balancing_bias_is_not_the_optimizer_s(tiny_model_config):
    layer = MoE(8, tiny_model_config.moe, 0.02)
    managed = build_optimizer(layer, CONFIG)._parameter_list
    assert layer.gate.expert_bias.name not in {parameter.name for parameter in managed}


def with_gradients(*gradients: list[float]) -> list[paddle.Tensor]:
    parameters = []
    for gradient in gradients:
        parameter = paddle.create_parameter([len(gradient)], "float32")
        (parameter * paddle.to_tensor(gradient)).sum().backward()
        parameters.append(parameter)
    return parameters


def gradients_of(parameters: list[paddle.Tensor]) -> np.ndarray:
    return np.concatenate([parameter.grad.numpy() for parameter in parameters])


def test_large_gradients_are_scaled_to_the_clip_norm_together():
    parameters = with_gradients([3.0, 0.0], [0.0, 4.0, 12.0])
    assert clip_grad_norm(parameters, 6.5) == pytest.approx(13.0)
    np.testing.assert_allclose(gradients_of(parameters), [1.5, 0, 0, 2, 6], rtol=1e-6)


@pytest.mark.parametrize("clip_norm", [0.0, 5.0, 13.5])
def test_gradients_within_the_clip_norm_or_without_one_are_left_alone(clip_norm):
    parameters = with_gradients([3.0, 0.0], [0.0, 4.0])
    assert clip_grad_norm(parameters, clip_norm) == pytest.approx(5.0)
    assert gradients_of(parameters).tolist() == [3, 0, 0, 4]


def test_a_parameter_without_gradient_is_passed_over():
    parameters = [*with_gradients([3.0, 4.0]), paddle.create_parameter([2], "float32")]
    assert clip_grad_norm(parameters, 1.0) == pytest.approx(5.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_returned_as_such(bad):
    assert not math.isfinite(clip_grad_norm(with_gradients([1.0, bad], [2.0]), 1.0))


def test_the_first_parameter_with_a_bad_gradient_is_named():
    net = Net()
    (net.matrix.sum() + net.experts.sum() * math.inf + net.norm.sum() * math.nan).backward()
    assert first_not_finite(dict(net.named_parameters())) == "experts"
    net.clear_gradients()
    (net.matrix.sum() + net.experts.sum()).backward()
    assert first_not_finite(dict(net.named_parameters())) is None
