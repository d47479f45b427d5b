"""The adversarial loss: its network sees what it must, and each of its terms trains it."""

from dataclasses import replace

import numpy as np
import paddle
import pytest

from ernie5.config.vision_tokenizer import AdversarialConfig
from ernie5.tokenizers.vision.discriminator import Adversary, Discriminator, gradient_penalty

CONFIG = AdversarialConfig(weight=0.1, channels=(8, 8), learning_rate=1e-2)


def test_scores_are_one_a_frame_of_any_size():
    network = Discriminator((8, 8, 16))
    assert network(paddle.randn([3, 3, 16, 16])).shape == [3]
    assert network(paddle.randn([8, 3, 8, 24])).shape == [8]


def test_sameness_in_a_batch_changes_the_score():
    network, frame = Discriminator((8, 8)), paddle.randn([1, 3, 8, 8])
    same = network(frame.expand([4, 3, 8, 8]))
    varied = network(paddle.concat([frame, paddle.randn([3, 3, 8, 8])]))
    assert abs(float(same[0]) - float(varied[0])) > 1e-5


def test_gradient_penalty_of_a_linear_score_is_the_square_of_its_weights():
    weight = paddle.randn([3, 4, 4])
    frames = paddle.randn([5, 3, 4, 4])
    frames.stop_gradient = False
    penalty = gradient_penalty((frames * weight).sum(axis=[1, 2, 3]), frames)
    np.testing.assert_allclose(float(penalty), float((weight**2).sum()), rtol=1e-5)


def test_gradient_penalty_is_that_of_finite_differences():
    network, frames = Discriminator((8, 8)), paddle.randn([2, 3, 8, 8])
    frames.stop_gradient = False
    penalty = float(gradient_penalty(network(frames), frames))
    direction = paddle.grad(network(frames).sum(), frames)[0]
    step = 1e-2 * direction / direction.norm()
    slope = float(network(frames + step).sum() - network(frames - step).sum()) / (2 * 1e-2)
    np.testing.assert_allclose(penalty, slope**2 / 2, rtol=1e-2)  # the mean over two frames


def test_gradient_penalty_moves_every_weight_of_the_network():
    network, frames = Discriminator((8, 8)), paddle.randn([4, 3, 8, 8])
    frames.stop_gradient = False
    gradient_penalty(network(frames), frames).backward()
    moved = {name for name, p in network.named_parameters() if p.grad is not None and float(p.grad.abs().sum()) > 0}
    assert {name for name, p in network.named_parameters() if name.endswith("weight")} <= moved


def separation(config: AdversarialConfig) -> tuple[float, float]:
    """Mean score of real minus fake frames before and after some updates; real ones are brighter on the left."""
    adversary = Adversary(config)
    optimizer = paddle.optimizer.Adam(config.learning_rate, 0.0, 0.99, parameters=adversary.parameters())
    ramp = paddle.linspace(1, -1, 8).reshape([1, 1, 1, 8])
    real, fake = 0.3 * paddle.randn([8, 3, 8, 8]) + ramp, 0.3 * paddle.randn([8, 3, 8, 8]) - ramp

    def apart() -> float:
        return float(adversary.discriminator(real).mean() - adversary.discriminator(fake).mean())

    before = apart()
    for _ in range(20):
        adversary.loss(real, fake).backward()
        optimizer.step()
        optimizer.clear_grad()
    return before, apart()


@pytest.mark.parametrize("loss", ["hinge", "non_saturating"])
@pytest.mark.parametrize(("r1", "lecam"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1)])
def test_discriminator_learns_to_tell_real_from_fake(loss: str, r1: float, lecam: float):
    before, after = separation(replace(CONFIG, loss=loss, r1_weight=r1, lecam_weight=lecam))
    assert after > before + 0.5


def test_r1_makes_the_discriminator_flatter():
    free, flat = (separation(replace(CONFIG, r1_weight=weight))[1] for weight in (0.0, 10.0))
    assert flat < free


@pytest.mark.parametrize("loss", ["hinge", "non_saturating"])
def test_generator_loss_pulls_frames_towards_higher_scores(loss: str):
    adversary, frames = Adversary(replace(CONFIG, loss=loss)), paddle.randn([4, 3, 8, 8])
    frames.stop_gradient = False
    adversary.generator_loss(frames).backward()
    better = adversary.discriminator(frames - 0.1 * frames.grad / frames.grad.norm())
    assert float(better.mean()) > float(adversary.discriminator(frames).mean())


def test_discriminator_loss_does_not_reach_the_generator():
    adversary, fake = Adversary(replace(CONFIG, r1_weight=1.0)), paddle.randn([4, 3, 8, 8])
    fake.stop_gradient = False
    adversary.loss(paddle.randn([4, 3, 8, 8]), fake).backward()
    assert fake.grad is None


def test_lecam_is_the_distance_from_the_other_sides_running_mean():
    adversary = Adversary(replace(CONFIG, lecam_weight=2.0))
    adversary.mean_real, adversary.mean_fake = 0.8, -0.4
    real, fake = paddle.randn([4, 3, 8, 8]), paddle.randn([4, 3, 8, 8])
    scores = [adversary.discriminator(frames).numpy().astype(np.float64) for frames in (real, fake)]
    plain = float(Adversary.loss(with_lecam(adversary, 0.0), real, fake))
    found = float(adversary.loss(real, fake))
    mean_real, mean_fake = 0.99 * 0.8 + 0.01 * scores[0].mean(), 0.99 * -0.4 + 0.01 * scores[1].mean()
    above, below = np.maximum(scores[0] - mean_fake, 0) ** 2, np.maximum(mean_real - scores[1], 0) ** 2
    np.testing.assert_allclose(found - plain, 2 * (above.mean() + below.mean()), rtol=1e-3)


def with_lecam(adversary: Adversary, weight: float) -> Adversary:
    """The same discriminator under another weight."""
    other = Adversary(replace(adversary.config, lecam_weight=weight))
    other.set_state_dict(adversary.state_dict())
    return other


@pytest.mark.parametrize("loss", ["hinge", "non_saturating"])
def test_losses_are_those_of_the_scores(loss: str):
    adversary, real, fake = (
        Adversary(replace(CONFIG, loss=loss)),
        paddle.randn([4, 3, 8, 8]),
        paddle.randn([4, 3, 8, 8]),
    )
    adversary.discriminator.score.bias.set_value(paddle.ones([1]) * 0.3)
    r, f = (adversary.discriminator(frames).numpy().astype(np.float64) for frames in (real, fake))
    if loss == "hinge":
        expected = (np.maximum(1 - r, 0).mean() + np.maximum(1 + f, 0).mean()) / 2, -f.mean()
    else:
        expected = np.log1p(np.exp(-r)).mean() + np.log1p(np.exp(f)).mean(), np.log1p(np.exp(-f)).mean()
    found = float(adversary.loss(real, fake)), float(adversary.generator_loss(fake))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_r1_is_weighed_by_half():
    flat, real, fake = Adversary(CONFIG), paddle.randn([4, 3, 8, 8]), paddle.randn([4, 3, 8, 8])
    steep = Adversary(replace(CONFIG, r1_weight=2.0))
    steep.set_state_dict(flat.state_dict())
    real.stop_gradient = False
    penalty = float(gradient_penalty(flat.discriminator(real), real))
    np.testing.assert_allclose(float(steep.loss(real, fake)) - float(flat.loss(real, fake)), penalty, rtol=1e-3)
