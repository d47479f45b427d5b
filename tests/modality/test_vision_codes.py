"""What predicts what (report, Figure 2), against a NumPy walk through the scales of every frame."""

import numpy as np
import paddle
import pytest

from ernie5.config.schema import ResolutionConfig, VisionEncoderConfig
from ernie5.config.vision_tokenizer import VisionTokenizerConfig
from ernie5.modality.unified import VisualMedium
from ernie5.modality.vision_codes import VisionCoder, scale_weights
from ernie5.modality.visual_layout import generated_length
from ernie5.tokenizers.vision.resize import resize_matrix
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer

SQUARE, WIDE = ((1, 1), (2, 2), (4, 4)), ((1, 1), (1, 2), (2, 4))
BITS, SEQ = 5, 200


@pytest.fixture(scope="module")
def tokenizer():
    paddle.seed(3)
    config = VisionTokenizerConfig(
        encoder=VisionEncoderConfig(channels=(8, 8)),
        bits=BITS,
        resolutions=(ResolutionConfig(height=8, width=8, scales=SQUARE),),
    )
    network = VisionTokenizer(config)
    network.eval()
    return network


def medium(frames, scales, start, row=0, flip_rate=None, seed=0):
    height, width = (2 * n for n in scales[-1])
    pixels = np.random.default_rng(frames + start).integers(0, 256, [frames, height, width, 3]).astype(np.uint8)
    rates = None if flip_rate is None else np.full([frames, len(scales)], flip_rate)
    length = generated_length(frames, scales)
    return VisualMedium(
        pixels=pixels, start=start, length=length, scales=scales, flip_rates=rates, flip_seed=seed, row=row
    )


def resized(grid, size):
    """[h, w, d] -> [size, d] with the same matrices, one axis after the other."""
    for axis, to in enumerate(size):
        of = grid.shape[axis]
        if to != of:
            matrix = resize_matrix(to, of, "down" if to < of else "up")
            grid = np.moveaxis(np.tensordot(matrix, grid, (1, axis)), 0, axis)
    return grid


def walk(tokenizer, medium):
    """What each position reads and predicts, by going through Figure 2: {place: input}, {place: target bits}."""
    pixels = paddle.to_tensor((medium.pixels[None] / 127.5 - 1).astype(np.float32))
    latents = tokenizer.latents(pixels).numpy()[0]
    reads, predicts, place = {}, {}, medium.start - 1  # BOI
    for frame in latents:
        total = np.zeros_like(frame)
        for k, (height, width) in enumerate(medium.scales):
            residual = resized(frame - total, (height, width))
            bits = (residual >= 0).astype(np.float32)
            if k > 0:
                before = resized(total, (height, width)).reshape(-1, BITS) * BITS**0.5
                for i, row in enumerate(before):
                    reads[place + 1 + i] = row
                places = place + 1 + np.arange(height * width)
            else:
                places = [place]  # BOI, or the sum of all scales of the frame before
            predicts |= dict(zip(places, bits.reshape(-1, BITS), strict=True))
            place = places[-1]
            total = total + resized((2 * bits - 1) * BITS**-0.5, medium.scales[-1])
        place += 1
        reads[place] = resized(total, (1, 1)).reshape(BITS) * BITS**0.5
    return reads, predicts


@pytest.mark.parametrize("frames, scales", [(1, SQUARE), (1, WIDE), (3, SQUARE)])
def test_positions_read_the_scales_before_and_predict_the_next(tokenizer, frames, scales):
    item = medium(frames, scales, start=7)
    generated = VisionCoder(tokenizer).encode([item], SEQ).generated
    reads, predicts = walk(tokenizer, item)
    assert dict(zip(generated.places.tolist(), range(len(reads)), strict=True)).keys() == reads.keys()
    for place, row in zip(generated.places.tolist(), generated.inputs.numpy(), strict=True):
        np.testing.assert_allclose(row, reads[place], atol=1e-6)
    for place, row in zip(generated.target_places.tolist(), generated.targets.numpy(), strict=True):
        assert np.array_equal(row, predicts[place])


def test_media_of_many_shapes_keep_their_places(tokenizer):
    items = [medium(1, WIDE, 3, row=1), medium(2, SQUARE, 5), medium(1, WIDE, 100), medium(1, SQUARE, 60, row=2)]
    together = VisionCoder(tokenizer).encode(items, SEQ).generated
    found = dict(zip(together.target_places.tolist(), together.targets.numpy(), strict=True))
    for item in items:
        _, predicts = walk(tokenizer, item)
        for place, bits in predicts.items():
            assert np.array_equal(found.pop(item.row * SEQ + place), bits)
    assert not found


def test_understood_media_are_grouped_by_shape_and_placed_in_the_flat_batch(tokenizer):
    pixels = np.random.default_rng(0).integers(0, 256, [1, 8, 8, 3]).astype(np.uint8)
    items = [VisualMedium(pixels=pixels, start=4, length=4, row=row) for row in (0, 2)]
    (group,) = VisionCoder(tokenizer).encode(items, SEQ).understood
    assert group.places.tolist() == [4, 5, 6, 7, 404, 405, 406, 407]
    np.testing.assert_allclose(group.pixels.numpy()[0], pixels / 127.5 - 1, atol=1e-6)


def test_flips_change_history_and_re_quantise_the_targets_behind_it(tokenizer):
    clean, flipped = (
        VisionCoder(tokenizer).encode([medium(1, SQUARE, 1, flip_rate=rate)], SEQ).generated for rate in (None, 0.5)
    )
    assert np.array_equal(clean.targets.numpy()[0], flipped.targets.numpy()[0])  # nothing stands before scale 0
    assert not np.allclose(clean.inputs.numpy(), flipped.inputs.numpy())
    assert not np.array_equal(clean.targets.numpy()[1:], flipped.targets.numpy()[1:])


def test_flips_are_a_function_of_the_medium_alone(tokenizer):
    item, other = medium(1, SQUARE, 1, flip_rate=0.3, seed=5), medium(1, SQUARE, 50, flip_rate=0.3, seed=6)
    alone = VisionCoder(tokenizer).encode([item], SEQ).generated.inputs.numpy()
    among = VisionCoder(tokenizer).encode([other, item], SEQ).generated.inputs.numpy()
    np.testing.assert_allclose(among[-len(alone) :], alone, atol=1e-6)


def test_scale_weights_follow_the_root_of_the_cells_and_sum_to_the_tokens():
    weights = scale_weights(SQUARE, 0.5)
    raw = np.repeat([4.0, 2.0, 1.0], [1, 4, 16])
    np.testing.assert_allclose(weights, raw * 21 / raw.sum(), rtol=1e-6)
    assert np.array_equal(scale_weights(SQUARE, 0.0), np.ones(21, np.float32))
