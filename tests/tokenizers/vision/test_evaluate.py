"""PSNR of prefixes and use of bits, against a plain recomputation."""

import numpy as np
import paddle
import pytest

from ernie5.config.schema import ResolutionConfig, VisionEncoderConfig
from ernie5.config.vision_tokenizer import VisionTokenizerConfig
from ernie5.errors import UserError
from ernie5.tokenizers.vision.evaluate import bit_entropy, evaluate, reconstruction_sheet, scales_of
from ernie5.tokenizers.vision.sampler import to_pixels
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer

SCALES = ((1, 1), (2, 2))


def make(temporal_stride: int = 1) -> VisionTokenizer:
    return VisionTokenizer(
        VisionTokenizerConfig(
            encoder=VisionEncoderConfig(channels=(8, 8, 16), temporal_stride=temporal_stride),
            bits=5,
            resolutions=(
                ResolutionConfig(height=8, width=8, scales=SCALES),
                ResolutionConfig(height=8, width=16, scales=((1, 1), (1, 2), (2, 4))),
            ),
        )
    )


def media(*shapes: tuple[int, int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def test_quality_is_that_of_each_frame_by_itself():
    tokenizer, films = make(), media((1, 8, 8), (3, 8, 8), (3, 8, 8))
    psnr, bits = [[], []], [[], []]
    for film in films:
        pixels = paddle.to_tensor(to_pixels(film[None]))
        latents = tokenizer.latents(pixels)
        codes = tokenizer.residual_quantize(latents.flatten(0, 1), SCALES)
        total = paddle.zeros_like(codes.latent)
        for k in range(2):
            total = tokenizer.accumulate(total, codes.bits[k], k, SCALES)
            output = tokenizer.decode(total.reshape(latents.shape)).numpy()[0]
            psnr[k] += [
                10 * np.log10(4 / ((a - b) ** 2).mean()) for a, b in zip(output, pixels.numpy()[0], strict=True)
            ]
            bits[k].append(codes.bits[k].numpy().reshape(-1, 5))
    quality = evaluate(tokenizer, films)
    assert quality.num_frames == 7
    np.testing.assert_allclose(quality.psnr, [np.mean(values) for values in psnr], rtol=1e-4)
    entropy = [bit_entropy(np.concatenate(values).mean(axis=0)).mean() for values in bits]
    np.testing.assert_allclose(quality.entropy, entropy, rtol=1e-6)


def test_sizes_with_more_scales_are_compared_from_the_last():
    tokenizer, pictures = make(), media((1, 8, 8), (1, 8, 16))
    two, three = (evaluate(tokenizer, [picture]) for picture in pictures)
    both = evaluate(tokenizer, pictures)
    assert (len(two.psnr), len(three.psnr), both.num_frames) == (2, 3, 2)
    np.testing.assert_allclose(both.psnr, np.mean([two.psnr, three.psnr[1:]], axis=0), rtol=1e-6)
    alone = [[codes.reshape([-1, 5]).numpy() for codes in codes_of(tokenizer, picture)] for picture in pictures]
    joined = [np.concatenate(bits) for bits in zip(alone[0], alone[1][1:], strict=True)]
    np.testing.assert_allclose(both.entropy, [bit_entropy(bits.mean(axis=0)).mean() for bits in joined], rtol=1e-6)


def codes_of(tokenizer: VisionTokenizer, picture: np.ndarray) -> list[paddle.Tensor]:
    latents = tokenizer.latents(paddle.to_tensor(to_pixels(picture[None]))).flatten(0, 1)
    return tokenizer.residual_quantize(latents, scales_of(tokenizer.config, picture)).bits


def test_frames_that_fill_no_latent_frame_are_left_out():
    assert evaluate(make(temporal_stride=2), media((4, 8, 8))).num_frames == 3


def test_entropy_of_a_bit():
    np.testing.assert_allclose(bit_entropy(np.array([0.0, 0.25, 0.5, 1.0])), [0, 0.8112781, 1, 0], atol=1e-9)


def test_sheet_shows_the_medium_beside_each_prefix():
    films = media((2, 8, 8), (1, 8, 16))
    sheet = reconstruction_sheet(make(), films)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * 10, 4 * 18, 3)
    np.testing.assert_array_equal(sheet[:8, :8], films[0][-1])
    np.testing.assert_array_equal(sheet[10:18, :16], films[1][-1])


def test_a_size_outside_the_table_is_refused():
    with pytest.raises(UserError, match="12 x 8 pixels: the vision tokenizer has 8 x 8, 8 x 16"):
        evaluate(make(), media((1, 12, 8)))


@pytest.mark.parametrize("temporal_stride", [1, 2])
def test_a_long_film_in_pieces_is_judged_as_at_once(temporal_stride: int, monkeypatch: pytest.MonkeyPatch):
    tokenizer, films = make(temporal_stride), media((7, 8, 8))
    whole = evaluate(tokenizer, films)
    monkeypatch.setattr("ernie5.tokenizers.vision.evaluate.PIXELS", 2 * 64)
    pieces = evaluate(tokenizer, films)
    assert pieces.num_frames == whole.num_frames == 7
    np.testing.assert_allclose(pieces.psnr, whole.psnr, rtol=1e-5)
