import numpy as np
import paddle
import pytest

from ernie5.errors import UserError
from ernie5.tokenizers.vision.quantizer import make_quantizer
from ernie5.tokenizers.vision.residual import accumulate, next_input, residual_quantize
from ernie5.tokenizers.vision.resize import resize
from tests.finite_differences import numeric_gradient
from tests.tolerances import tolerance

SCHEDULES = [
    [(1, 1)],
    [(1, 1), (4, 4)],
    [(1, 1), (2, 2), (3, 3), (5, 5), (8, 8)],
    [(1, 1), (1, 2), (2, 3), (3, 6)],
    [(1, 1), (3, 2), (7, 4)],
    [(1, 1), (2, 3), (2, 3), (4, 6)],
]
every_schedule = pytest.mark.parametrize("scales", SCHEDULES)
both_kinds = pytest.mark.parametrize("kind", ["lfq", "bsq"])
NUM_BITS = 6


def area(x: np.ndarray, to: int, axis: int) -> np.ndarray:
    """Mean over the slices of each new cell, an old cell being cut into `to` slices."""
    fine = np.repeat(x, to, axis=axis)
    of = x.shape[axis]
    return np.stack([np.take(fine, range(i * of, (i + 1) * of), axis).mean(axis) for i in range(to)], axis)


def bilinear(x: np.ndarray, to: int, axis: int) -> np.ndarray:
    """Linear interpolation between cell centres, constant beyond the outer ones."""
    of = x.shape[axis]
    old, new = (np.arange(of) + 0.5) / of, (np.arange(to) + 0.5) / to
    return np.apply_along_axis(lambda line: np.interp(new, old, line), axis, x)


def by_loops(latents, scales, kind, flips):
    """The definition, in float64 NumPy with its own resizing: bits, inputs and the sum."""
    height, width = scales[-1]
    magnitude = 1.0 if kind == "lfq" else NUM_BITS**-0.5
    total = np.zeros(latents.shape)
    bits, inputs = [], []
    for k, (h, w) in enumerate(scales):
        residual = area(area(latents.astype(np.float64) - total, h, 1), w, 2)
        bits.append(residual >= 0)
        sent = bits[k] ^ flips[k].astype(bool)
        total = total + bilinear(bilinear(np.where(sent, magnitude, -magnitude), height, 1), width, 2)
        h, w = scales[k + 1] if k + 1 < len(scales) else scales[0]
        inputs.append(area(area(total, h, 1), w, 2) / magnitude)
    return bits, inputs, total


def smooth_latents(num: int, grid: tuple[int, int], norm: float = 2.0) -> np.ndarray:
    """Random [num, H, W, NUM_BITS] whose neighbours resemble each other."""
    coarse = paddle.randn([num, 3, 3, NUM_BITS])
    fine = resize(coarse, grid) + 0.3 * paddle.randn([num, *grid, NUM_BITS])
    return (fine * (norm / float(fine.square().sum(-1).mean()) ** 0.5)).numpy()


def draw_flips(num: int, scales, probability: float) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [(rng.random([num, h, w, NUM_BITS]) < probability).astype(np.uint8) for h, w in scales]


@every_schedule
@both_kinds
@pytest.mark.parametrize("probability", [0.0, 0.3])
def test_codes_are_those_of_the_definition(scales, kind, probability):
    latents = smooth_latents(2, scales[-1])
    flips = draw_flips(2, scales, probability)
    bits, inputs, total = by_loops(latents, scales, kind, flips)
    given = [paddle.to_tensor(flip) for flip in flips] if probability else None
    codes = residual_quantize(paddle.to_tensor(latents), scales, make_quantizer(kind, NUM_BITS), given)
    for k in range(len(scales)):
        np.testing.assert_array_equal(codes.bits[k].numpy(), bits[k])
        np.testing.assert_allclose(codes.inputs[k].numpy(), inputs[k], **tolerance("float32"))
    np.testing.assert_allclose(codes.latent.numpy(), total, **tolerance("float32"))


def test_targets_after_a_flip_correct_it():
    scales = [(1, 1), (2, 2)]
    latents = paddle.full([1, 2, 2, 1], 0.5)
    quantizer = make_quantizer("lfq", 1)
    flips = [paddle.ones([1, 1, 1, 1]), paddle.zeros([1, 2, 2, 1])]
    straight, flipped = (residual_quantize(latents, scales, quantizer, given) for given in (None, flips))
    # 0.5 - 1 asks for -1 next; with the first bit inverted, 0.5 + 1 asks for +1
    assert [float(codes.bits[0].mean()) for codes in (straight, flipped)] == [1, 1]
    assert [float(codes.bits[1].mean()) for codes in (straight, flipped)] == [0, 1]


@every_schedule
@both_kinds
def test_accumulating_the_same_bits_gives_the_same_latent_to_the_last_bit(scales, kind):
    quantizer = make_quantizer(kind, NUM_BITS)
    latents = paddle.to_tensor(smooth_latents(3, scales[-1]))
    codes = residual_quantize(latents, scales, quantizer)
    latent = paddle.zeros_like(latents)
    for k, bits in enumerate(codes.bits):
        latent = accumulate(latent, bits, k, scales, quantizer)
        np.testing.assert_array_equal(next_input(latent, k + 1, scales, quantizer).numpy(), codes.inputs[k].numpy())
    np.testing.assert_array_equal(latent.numpy(), codes.latent.numpy())


def test_each_frame_is_quantised_by_itself():
    scales = SCHEDULES[2]
    latents = paddle.to_tensor(smooth_latents(3, scales[-1]))
    quantizer = make_quantizer("bsq", NUM_BITS)
    together, alone = (residual_quantize(x, scales, quantizer) for x in (latents, latents[1:2]))
    for k in range(len(scales)):
        np.testing.assert_array_equal(together.bits[k][1:2].numpy(), alone.bits[k].numpy())
    np.testing.assert_array_equal(together.latent[1:2].numpy(), alone.latent.numpy())


def test_the_gradient_of_the_sum_reaches_the_latents_unchanged():
    scales = SCHEDULES[3]
    latents = paddle.to_tensor(smooth_latents(2, scales[-1]), stop_gradient=False)
    weight = paddle.randn(latents.shape)
    (residual_quantize(latents, scales, make_quantizer("bsq", NUM_BITS)).latent * weight).sum().backward()
    np.testing.assert_array_equal(latents.grad.numpy(), weight.numpy())


def test_losses_of_the_residuals_train_the_latents():
    scales = [(1, 1), (2, 1), (3, 2)]
    quantizer = make_quantizer("bsq", NUM_BITS)
    quantizer.temperature = 1.0
    start = smooth_latents(1, scales[-1])
    bits = residual_quantize(paddle.to_tensor(start), scales, quantizer).bits

    def penalty(latents: paddle.Tensor) -> paddle.Tensor:
        codes = residual_quantize(latents, scales, quantizer)
        assert all((old == new).all() for old, new in zip(bits, codes.bits, strict=True)), "no step crosses a sign"
        return sum(quantizer.entropy_penalty(residual, 0.5) for residual in codes.residuals)

    latents = paddle.to_tensor(start, stop_gradient=False)
    penalty(latents).backward()
    slope = numeric_gradient(lambda at: float(penalty(paddle.to_tensor(at.astype(np.float32)))), start, step=1e-3)
    np.testing.assert_allclose(latents.grad.numpy(), slope, atol=2e-3)  # float32 losses of size 1, steps of 1e-3


def test_inputs_and_targets_carry_no_gradient():
    latents = paddle.to_tensor(smooth_latents(1, (3, 6)), stop_gradient=False)
    codes = residual_quantize(latents, SCHEDULES[3], make_quantizer("lfq", NUM_BITS))
    assert all(tensor.stop_gradient for tensor in codes.bits + codes.inputs)


@pytest.mark.parametrize("norm", [2.0, 3.0])
def test_every_scale_brings_smooth_latents_nearer(norm):
    scales = [(1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (8, 8)]
    latents = paddle.to_tensor(smooth_latents(32, (8, 8), norm))
    quantizer = make_quantizer("bsq", NUM_BITS)
    total = paddle.zeros_like(latents)
    errors = [float(latents.norm())]
    for k, bits in enumerate(residual_quantize(latents, scales, quantizer).bits):
        total = accumulate(total, bits, k, scales, quantizer)
        errors.append(float((latents - total).norm()))
    assert all(after < before for before, after in zip(errors, errors[1:], strict=False)), errors


def test_scales_that_do_not_end_in_the_grid_are_refused():
    with pytest.raises(UserError, match="the last is 2x2 but the latents are 3x3"):
        residual_quantize(paddle.zeros([1, 3, 3, 4]), [(1, 1), (2, 2)], make_quantizer("bsq", 4))
