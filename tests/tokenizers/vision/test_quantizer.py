from itertools import product
from pathlib import Path

import numpy as np
import paddle
import pytest

from ernie5.errors import UserError
from ernie5.tokenizers.vision.quantizer import BinarySphericalQuantizer, LookupFreeQuantizer, make_quantizer
from tests.finite_differences import numeric_gradient
from tests.tolerances import tolerance

FIXTURE = np.load(Path(__file__).parents[2] / "golden" / "vector_quantize.npz")
KINDS = {"lfq": LookupFreeQuantizer, "bsq": BinarySphericalQuantizer}
both_kinds = pytest.mark.parametrize("kind", ["lfq", "bsq"])


def stored(name: str) -> np.ndarray:
    return FIXTURE[name]


def fixture_quantizer(kind: str):
    return KINDS[kind](stored("z").shape[1], float(stored(f"{kind}.temperature")))


def entropies_over_all_codes(kind: str, z: np.ndarray, temperature: float) -> tuple[float, float]:
    """E[H(q)] and H[E q] by listing the 2^d codes, in float64."""
    z = z.astype(np.float64)
    codes = np.array(list(product([-1.0, 1.0], repeat=z.shape[1])))
    if kind == "bsq":
        z, codes = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (z, codes))
    scores = -np.square(z[:, None] - codes).sum(-1) / temperature
    q = np.exp(scores - scores.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)
    sample, batch = (-(p * np.log(np.maximum(p, 1e-300))).sum(-1) for p in (q, q.mean(0)))
    return float(sample.mean()), float(batch)


@both_kinds
def test_output_is_that_of_vector_quantize_pytorch(kind):
    quantized = fixture_quantizer(kind).quantize(paddle.to_tensor(stored("z")))
    np.testing.assert_allclose(quantized.numpy(), stored(f"{kind}.quantized"), **tolerance("float32"))


@both_kinds
def test_gradient_is_that_of_vector_quantize_pytorch(kind):
    z = paddle.to_tensor(stored("z"), stop_gradient=False)
    weight = paddle.arange(z.size, dtype="float32").reshape(z.shape)
    (fixture_quantizer(kind).quantize(z) * weight).sum().backward()
    # weights up to 200 cancel in the spherical gradient
    np.testing.assert_allclose(z.grad.numpy(), stored(f"{kind}.gradient"), rtol=1e-5, atol=1e-4)


@both_kinds
def test_sample_entropy_is_that_of_vector_quantize_pytorch(kind):
    sample = fixture_quantizer(kind).entropies(paddle.to_tensor(stored("z"))).sample
    np.testing.assert_allclose(float(sample), stored(f"{kind}.sample_entropy"), **tolerance("float32"))


@both_kinds
def test_batch_entropy_of_independent_bits_is_that_of_vector_quantize_pytorch(kind):
    batch = fixture_quantizer(kind).entropies(paddle.to_tensor(stored("independent"))).batch
    np.testing.assert_allclose(float(batch), stored(f"{kind}.independent_batch_entropy"), **tolerance("float32"))


@both_kinds
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_sample_entropy_is_exact_without_listing_codes(kind, temperature):
    z = np.random.default_rng(1).standard_normal([7, 6]).astype(np.float32)
    sample = KINDS[kind](6, temperature).entropies(paddle.to_tensor(z)).sample
    expected, _ = entropies_over_all_codes(kind, z, temperature)
    np.testing.assert_allclose(float(sample), expected, rtol=1e-4, atol=1e-6)  # log-odds of about 80 in float32


@both_kinds
def test_batch_entropy_is_above_that_of_the_codes_where_bits_depend_on_each_other(kind):
    z = np.random.default_rng(2).standard_normal([3, 6]).astype(np.float32)  # about three codes in use
    batch = KINDS[kind](6, 0.05).entropies(paddle.to_tensor(z)).batch
    _, of_codes = entropies_over_all_codes(kind, z, 0.05)
    assert of_codes + 0.5 < float(batch)


@both_kinds
def test_batch_entropy_is_exact_for_a_single_vector(kind):
    z = np.random.default_rng(3).standard_normal([1, 6]).astype(np.float32)
    batch = KINDS[kind](6, 1.0).entropies(paddle.to_tensor(z)).batch
    np.testing.assert_allclose(float(batch), entropies_over_all_codes(kind, z, 1.0)[1], **tolerance("float32"))


@both_kinds
def test_gradient_of_the_entropy_penalty_is_its_slope(kind):
    quantizer = KINDS[kind](4, 0.5)
    z = np.random.default_rng(4).standard_normal([3, 4])
    at = paddle.to_tensor(z, stop_gradient=False)  # float64: differences of 1e-6 show
    quantizer.entropy_penalty(at, gamma=0.7).backward()

    def penalty(z: np.ndarray) -> float:
        return float(quantizer.entropy_penalty(paddle.to_tensor(z), gamma=0.7))

    np.testing.assert_allclose(at.grad.numpy(), numeric_gradient(penalty, z), rtol=1e-6, atol=1e-8)


def test_penalty_falls_for_decided_vectors_that_use_all_bits():
    quantizer = make_quantizer("lfq", 3)
    corners = paddle.to_tensor(list(product([-1.0, 1.0], repeat=3)))
    np.testing.assert_allclose(float(quantizer.entropy_penalty(corners)), -3 * np.log(2), **tolerance("float32"))
    np.testing.assert_allclose(float(quantizer.entropy_penalty(corners[:1])), 0, atol=1e-6)


def test_entropy_of_64_bits_needs_no_list_of_codes():
    z = paddle.zeros([2, 5, 64])  # undecided in every bit
    entropies = make_quantizer("bsq", 64).entropies(z)
    np.testing.assert_allclose([float(e) for e in entropies], 64 * np.log(2), **tolerance("float32"))


@both_kinds
def test_codes_and_bits_are_inverse(kind):
    quantizer = make_quantizer(kind, 12)
    bits = paddle.randint(0, 2, [4, 3, 12]).astype("float32")
    np.testing.assert_array_equal(quantizer.bits(quantizer.codes(bits)).numpy(), bits.numpy())


@pytest.mark.parametrize("kind, norm", [("lfq", np.sqrt(12)), ("bsq", 1.0)])
def test_codes_have_the_norm_of_their_kind(kind, norm):
    quantized = make_quantizer(kind, 12).quantize(paddle.randn([6, 12]) * 5)
    np.testing.assert_allclose(np.linalg.norm(quantized.numpy(), axis=-1), norm, **tolerance("float32"))


@both_kinds
def test_quantized_values_are_codes_to_the_last_bit(kind):
    quantizer = make_quantizer(kind, 7)
    z = paddle.randn([50, 7])
    np.testing.assert_array_equal(quantizer.quantize(z).numpy(), quantizer.codes(quantizer.bits(z)).numpy())


def test_zero_of_either_sign_is_a_one():
    np.testing.assert_array_equal(make_quantizer("lfq", 2).bits(paddle.to_tensor([0.0, -0.0])).numpy(), [1, 1])


@both_kinds
def test_a_zero_vector_has_finite_losses_and_gradients(kind):
    quantizer = make_quantizer(kind, 8)
    z = paddle.zeros([3, 8])
    z.stop_gradient = False
    loss = quantizer.quantize(z).sum() + quantizer.entropy_penalty(z)
    loss.backward()
    assert np.isfinite(float(loss)) and np.isfinite(z.grad.numpy()).all()


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'vq' is not known, choose one of bsq, lfq"):
        make_quantizer("vq", 8)


def test_a_code_without_bits_is_refused():
    with pytest.raises(UserError, match="at least one"):
        make_quantizer("bsq", 0)
