"""Residual vector quantisation, against vector-quantize-pytorch and against NumPy."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from ernie5.errors import UserError
from ernie5.tokenizers.audio.quantizer import (
    Codebooks,
    ResidualVectorQuantizer,
    draw_levels,
    initial_codebooks,
    nearest,
    quantize,
    updated,
)
from tests.tolerances import tolerance

FIXTURE = np.load(Path(__file__).parents[2] / "golden" / "residual_vq.npz")
BATCH, FRAMES, LEVELS, CODES, SIZE = 3, 10, 3, 8, 5


def stored(name: str) -> paddle.Tensor:
    return paddle.to_tensor(FIXTURE[name])


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def latents(seed: int = 0, frames: int = FRAMES) -> paddle.Tensor:
    values = np.random.default_rng(seed).standard_normal([BATCH, frames, SIZE])
    return paddle.to_tensor(values.astype(np.float32))


@pytest.fixture
def quantizer() -> ResidualVectorQuantizer:
    quantizer = ResidualVectorQuantizer(LEVELS, CODES, SIZE)
    quantizer.initialise(latents(), rng())
    return quantizer


def test_codes_are_those_of_vector_quantize_pytorch():
    codes = quantize(stored("latents"), stored("before.vectors")).codes
    np.testing.assert_array_equal(codes.numpy(), FIXTURE["codes"])


def test_output_is_that_of_vector_quantize_pytorch():
    quantized = quantize(stored("latents"), stored("before.vectors")).latents
    np.testing.assert_allclose(quantized.numpy(), FIXTURE["quantized"], **tolerance("float32"))


def test_commitment_is_that_of_vector_quantize_pytorch():
    commitment = quantize(stored("latents"), stored("before.vectors")).commitment
    np.testing.assert_allclose(commitment.numpy(), FIXTURE["commitment"], **tolerance("float32"))


@pytest.mark.parametrize("name", ["counts", "sums", "vectors"])
def test_codebooks_after_a_step_are_those_of_vector_quantize_pytorch(name, monkeypatch):
    monkeypatch.setattr("ernie5.tokenizers.audio.quantizer.DEAD_SHARE", 0.0)
    before = Codebooks(*(stored(f"before.{part}") for part in Codebooks._fields))
    quantized = quantize(stored("latents"), before.vectors)
    after = updated(before, quantized, rng(), decay=float(FIXTURE["decay"]))
    np.testing.assert_allclose(getattr(after, name).numpy(), FIXTURE[f"after.{name}"], **tolerance("float32"))


def test_of_equally_near_codes_the_lowest_is_taken():
    vectors = paddle.to_tensor([[9.0, 9.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    assert nearest(paddle.to_tensor([[0.0, 0.0], [2.0, 0.0]]), vectors).tolist() == [1, 1]


@pytest.mark.parametrize("size", [5, 64])
def test_distances_of_a_vector_do_not_depend_on_its_neighbours(size):
    """As for 1, 3 or 200 vectors at once; a matrix product would round them otherwise."""
    vectors = paddle.randn([1, size]) + paddle.randn([304, size]) * 1e-7  # the last bits decide
    rows = paddle.randn([200, size])
    whole = nearest(rows, vectors).numpy()
    parts = [nearest(part, vectors).numpy() for part in rows.split([1, 3, 196])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_decoding_gives_the_quantised_latents_to_the_last_bit(quantizer):
    quantized = quantizer(latents(2))
    np.testing.assert_array_equal(quantizer.decode(quantized.codes).numpy(), quantized.latents.numpy())


def test_each_level_lowers_the_error(quantizer):
    quantized = quantizer(latents())
    errors = [float((quantizer.decode(quantized.codes, q) - latents()).square().mean()) for q in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]


def test_a_clip_keeps_the_levels_it_is_given(quantizer):
    quantized = quantizer(latents(2), levels=[1, 2, 3])
    for clip, levels in enumerate([1, 2, 3]):
        expected = quantizer.decode(quantized.codes[clip : clip + 1], levels)
        np.testing.assert_array_equal(quantized.latents[clip : clip + 1].numpy(), expected.numpy())


def test_codes_do_not_depend_on_the_levels_that_are_kept(quantizer):
    kept = quantizer(latents(2), levels=[1, 1, 1]).codes
    np.testing.assert_array_equal(kept.numpy(), quantizer(latents(2)).codes.numpy())


@pytest.mark.parametrize("part", ["latents", "first"])
def test_the_gradient_passes_unchanged(quantizer, part):
    x = latents(2)
    x.stop_gradient = False
    weight = paddle.randn(x.shape)
    (getattr(quantizer(x), part) * weight).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), weight.numpy())


def test_the_gradient_of_the_commitment_points_away_from_the_codes(quantizer):
    x = latents(2)
    x.stop_gradient = False
    quantized = quantizer(x)
    quantized.commitment.sum().backward()
    left = [x - quantizer.decode(quantized.codes, q + 1) for q in range(LEVELS)]
    expected = 2 * sum(left) / x.size
    np.testing.assert_allclose(x.grad.numpy(), expected.numpy(), rtol=1e-4, atol=1e-6)


def test_initial_codes_are_the_means_of_clusters_that_lie_apart():
    centres = np.eye(4, SIZE, dtype=np.float32) * 10
    values = centres[np.arange(40) % 4] + rng().normal(0, 0.1, [40, SIZE]).astype(np.float32)
    books = [initial_codebooks(paddle.to_tensor(values[None]), 1, 4, np.random.default_rng(seed)) for seed in range(30)]
    means = np.array([values[i::4].mean(0) for i in range(4)])
    found = [book.vectors[0].numpy() for book in books if (book.counts == 10).all()]
    assert found, "k-means may stop at a poor place, but not from thirty starts"
    for vectors in found:
        np.testing.assert_allclose(vectors[np.argsort(-vectors @ np.arange(SIZE, 0, -1))], means, rtol=1e-5, atol=1e-5)


def test_fewer_vectors_than_codes_still_initialise():
    books = initial_codebooks(latents(frames=1), LEVELS, CODES, rng())
    assert np.isfinite(books.vectors.numpy()).all()
    np.testing.assert_allclose(books.counts.sum(-1).numpy(), BATCH)
    np.testing.assert_allclose(quantize(latents(frames=1), books.vectors).commitment.numpy(), 0, atol=1e-10)


def test_dead_codes_are_put_on_vectors_of_the_batch(quantizer):
    far = quantizer.codebooks.vectors.clone()
    far[0, 2:] = 100.0
    counts = quantizer.codebooks.counts.clone()
    counts[0, 2:] = 0.0
    before = Codebooks(far, quantizer.codebooks.sums, counts)
    x = latents(3)
    after = updated(before, quantize(x, far), rng())
    moved = after.vectors[0, 2:].numpy()
    distances = np.abs(moved[:, None] - x.reshape([-1, SIZE]).numpy()).sum(-1)
    assert (distances.min(1) == 0).all()
    assert len(set(distances.argmin(1))) == len(moved)
    np.testing.assert_allclose(after.sums[0, 2:].numpy(), moved * after.counts[0, 2:, None].numpy(), rtol=1e-5)


def test_codes_in_use_are_not_revived(quantizer):
    quantized = quantizer(latents())
    unchanged = updated(quantizer.codebooks, quantized, rng(), decay=1.0)
    used = quantizer.codebooks.counts.numpy() >= 1
    np.testing.assert_allclose(
        unchanged.vectors.numpy()[used], quantizer.codebooks.vectors.numpy()[used], rtol=1e-4, atol=1e-5
    )


def test_learning_brings_the_codes_nearer_to_the_data():
    quantizer = ResidualVectorQuantizer(LEVELS, CODES, SIZE)
    generator = rng()
    quantizer.initialise(latents(), generator)
    moved = latents(5) + 2.0
    first = float((quantizer(moved).latents - moved).square().mean())
    for _ in range(60):
        quantizer.learn(quantizer(moved), generator)
    assert float((quantizer(moved).latents - moved).square().mean()) < 0.5 * first


def test_the_same_generator_gives_the_same_codebooks():
    books = [initial_codebooks(latents(), LEVELS, CODES, np.random.default_rng(7)) for _ in range(2)]
    for one, other in zip(*books, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_a_quantiser_is_initialised_by_its_first_batch_and_saved_with_its_state(quantizer):
    fresh = ResidualVectorQuantizer(LEVELS, CODES, SIZE)
    assert not fresh.initialised and quantizer.initialised
    fresh.set_state_dict(quantizer.state_dict())
    assert fresh.initialised
    np.testing.assert_array_equal(fresh(latents(4)).codes.numpy(), quantizer(latents(4)).codes.numpy())


def test_calling_changes_nothing(quantizer):
    before = [part.numpy() for part in quantizer.codebooks]
    quantizer(latents(4))
    for part, expected in zip(quantizer.codebooks, before, strict=True):
        np.testing.assert_array_equal(part.numpy(), expected)


def test_drawn_levels_are_all_but_for_the_share_that_drops():
    drawn = np.array(draw_levels(4000, 4, 0.5, rng()))
    np.testing.assert_allclose(np.bincount(drawn, minlength=5)[1:] / 4000, [0.125, 0.125, 0.125, 0.625], atol=0.03)
    assert draw_levels(5, 4, 0.0, rng()) == [4] * 5


@pytest.mark.parametrize(
    ("codes", "levels", "message"),
    [
        (np.full([1, 2, 3], 8), None, "codes from 8 to 8: the audio tokenizer has 0 to 7"),
        (np.full([1, 2, 3], -1), None, "codes from -1 to -1"),
        (np.zeros([1, 2, 2]), 3, "3 levels of codes .*: the audio tokenizer has 3, give 1 to 2"),
        (np.zeros([1, 2, 3]), 0, "0 levels of codes"),
    ],
)
def test_codes_that_do_not_fit_are_refused(quantizer, codes, levels, message):
    with pytest.raises(UserError, match=message):
        quantizer.decode(paddle.to_tensor(codes.astype(np.int64)), levels)


def test_a_quantiser_without_codes_is_refused():
    with pytest.raises(UserError, match="cannot hold a code"):
        ResidualVectorQuantizer(1, 0, 4)
