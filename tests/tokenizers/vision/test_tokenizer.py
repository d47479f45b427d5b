"""The vision tokenizer as a whole: pictures as films, inflation, streaming, its folder."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from ernie5.config.schema import ResolutionConfig, VisionEncoderConfig
from ernie5.config.vision_tokenizer import VisionTokenizerConfig
from ernie5.errors import UserError
from ernie5.tokenizers.vision.causal_conv import CausalConv, Stream
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer
from tests.vision_models import stirred

SCALES = ((1, 1), (2, 2))
PAST = 0.05  # standard deviation of weights on earlier frames, so that they matter


def make(temporal_stride: int = 1) -> VisionTokenizer:
    """8 x 8 pixels in 2 x 2 cells."""
    config = VisionTokenizerConfig(
        encoder=VisionEncoderConfig(channels=(8, 8, 16), temporal_stride=temporal_stride),
        bits=6,
        resolutions=(ResolutionConfig(height=8, width=8, scales=SCALES),),
    )
    return stirred(VisionTokenizer(config))


def pixels(batch: int, frames: int) -> paddle.Tensor:
    return paddle.rand([batch, frames, 8, 8, 3]) * 2 - 1


@pytest.mark.parametrize(("temporal_stride", "frames", "latent_frames"), [(1, 3, 3), (2, 5, 3), (4, 5, 2), (4, 1, 1)])
def test_latents_and_pixels_have_their_shapes(temporal_stride: int, frames: int, latent_frames: int):
    tokenizer = make(temporal_stride)
    latents = tokenizer.latents(pixels(2, frames))
    assert latents.shape == [2, latent_frames, 2, 2, 6]
    assert tokenizer.decode(latents).shape == [2, frames, 8, 8, 3]


def test_inflated_network_on_a_picture_is_the_picture_network():
    picture = stirred(VisionTokenizer(make().config, temporal_kernel=1))
    video, image = picture.inflated(), pixels(2, 1)
    latents = picture.latents(image)
    np.testing.assert_array_equal(video.latents(image).numpy(), latents.numpy())
    np.testing.assert_array_equal(video.decode(latents).numpy(), picture.decode(latents).numpy())


def test_inflated_network_on_a_film_is_the_picture_network_on_each_frame():
    picture = stirred(VisionTokenizer(make().config, temporal_kernel=1))
    video, film = picture.inflated(), pixels(2, 3)
    frames = [picture.latents(film[:, t : t + 1]).numpy() for t in range(3)]
    np.testing.assert_allclose(video.latents(film).numpy(), np.concatenate(frames, axis=1), rtol=1e-4, atol=1e-5)


def test_inflated_strided_network_on_a_film_keeps_every_second_frame():
    picture = stirred(VisionTokenizer(make(2).config, temporal_kernel=1))
    video, film = picture.inflated(), pixels(1, 5)
    frames = [picture.latents(film[:, t : t + 1]).numpy() for t in (0, 2, 4)]
    np.testing.assert_allclose(video.latents(film).numpy(), np.concatenate(frames, axis=1), rtol=1e-4, atol=1e-5)


CHUNKS = [(1, (1, 1, 3)), (1, (4, 1)), (2, (1, 2, 2)), (2, (3, 2)), (4, (1, 4, 4)), (4, (5, 4))]


@pytest.mark.parametrize(("temporal_stride", "chunks"), CHUNKS)
def test_a_film_in_chunks_has_the_same_codes_as_at_once(temporal_stride: int, chunks: tuple[int, ...]):
    tokenizer, film, stream = make(temporal_stride), pixels(2, sum(chunks)), Stream()
    whole = tokenizer.latents(film)
    streamed = paddle.concat([tokenizer.latents(part, stream) for part in film.split(list(chunks), axis=1)], axis=1)
    np.testing.assert_array_equal(streamed.numpy(), whole.numpy())
    codes = [tokenizer.residual_quantize(x.flatten(0, 1), SCALES).bits for x in (streamed, whole)]
    for ours, expected in zip(*codes, strict=True):
        np.testing.assert_array_equal(ours.numpy(), expected.numpy())


@pytest.mark.parametrize("temporal_stride", [1, 2, 4])
def test_latents_in_chunks_are_decoded_as_at_once(temporal_stride: int):
    tokenizer, latents, stream = make(temporal_stride), paddle.randn([2, 4, 2, 2, 6]), Stream()
    parts = [tokenizer.decode(part, stream) for part in latents.split([1, 1, 2], axis=1)]
    np.testing.assert_array_equal(paddle.concat(parts, axis=1).numpy(), tokenizer.decode(latents).numpy())


def test_a_stream_can_end_and_another_begin():
    tokenizer, film = make(2), pixels(1, 3)
    tokenizer.latents(film, Stream())
    np.testing.assert_array_equal(tokenizer.latents(film, Stream()).numpy(), tokenizer.latents(film).numpy())


def test_scales_are_accumulated_to_the_quantised_latent():
    tokenizer, latents = make(), paddle.randn([3, 2, 2, 6])
    codes = tokenizer.residual_quantize(latents, SCALES)
    total = paddle.zeros_like(latents)
    for k, bits in enumerate(codes.bits):
        total = tokenizer.accumulate(total, bits, k, SCALES)
    np.testing.assert_array_equal(total.numpy(), codes.latent.numpy())


@pytest.mark.parametrize(
    ("frames", "height", "temporal_stride", "message"),
    [
        (1, 10, 1, "10 x 8: the vision tokenizer needs multiples of 4"),
        (4, 8, 2, "4 frames: .*one more than a multiple of 2"),
    ],
)
def test_pixels_that_do_not_fit_are_refused(frames: int, height: int, temporal_stride: int, message: str):
    with pytest.raises(UserError, match=message):
        make(temporal_stride).latents(paddle.zeros([1, frames, height, 8, 3]))


def test_a_later_chunk_of_half_a_latent_frame_is_refused():
    tokenizer, stream = make(2), Stream()
    tokenizer.latents(pixels(1, 3), stream)
    with pytest.raises(UserError, match="3 frames: the vision tokenizer needs a multiple of 2"):
        tokenizer.latents(pixels(1, 3), stream)


def test_a_saved_tokenizer_loads_back(tmp_path: Path):
    tokenizer, film = make(2), pixels(1, 3)
    tokenizer.save_pretrained(tmp_path / "saved")
    loaded = VisionTokenizer.from_pretrained(tmp_path / "saved")
    assert loaded.config == tokenizer.config
    assert loaded.digest == tokenizer.digest
    np.testing.assert_array_equal(loaded.latents(film).numpy(), tokenizer.latents(film).numpy())


def test_digest_changes_with_a_weight_and_with_a_setting():
    tokenizer = make()
    before = tokenizer.digest
    twin = VisionTokenizer(replace(tokenizer.config, quantizer="lfq"))
    twin.set_state_dict(tokenizer.state_dict())
    assert twin.digest != before
    tokenizer.decoder.conv_out.bias.set_value(paddle.ones([3]))
    assert tokenizer.digest != before


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def change_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change_bits(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"bits": 7}))


def drop_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def misspell(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"bit": 7}))


def another_type(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: array.astype(np.float64) for name, array in weights.items()}, folder / "model.safetensors")


def earlier(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format": 1}))


def huge(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["encoder"]["channels"][1] = 100_000
    (folder / "config.json").write_text(json.dumps(config))


def nested(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut_weights, "not a whole safetensors file"),
        (change_weights, "not those that its config.json was written for"),
        (change_bits, "weights do not fit its config.json"),
        (drop_config, "cannot be read"),
        (another_type, "weights do not fit its config.json"),
        (earlier, "was written by another version"),
        (huge, "encoder.channels is 100000: must be at most 4096"),
        (nested, "not JSON"),
        (misspell, "bit is not a known setting: did you mean bits"),
    ],
)
def test_a_harmed_folder_is_refused(tmp_path: Path, harm: Callable[[Path], None], message: str):
    make().save_pretrained(tmp_path)
    harm(tmp_path)
    with pytest.raises(UserError, match=message):
        VisionTokenizer.from_pretrained(tmp_path)


def test_weights_have_the_documented_layout():
    weight = next(layer for layer in make().sublayers() if isinstance(layer, CausalConv)).weight
    assert weight.shape == [8, 3, 3, 3, 3]  # [out, in, kt, k, k]


@pytest.mark.parametrize("later", [(2, 1, 8, 8, 3), (1, 1, 8, 16, 3)])
def test_a_chunk_of_another_size_does_not_go_on_with_a_stream(later: tuple[int, ...]):
    tokenizer, stream = make(), Stream()
    tokenizer.latents(pixels(1, 1), stream)
    with pytest.raises(UserError, match="after one of 1 films of 8 x 8"):
        tokenizer.latents(paddle.zeros(later), stream)


def test_latents_that_do_not_fit_are_refused():
    tokenizer, stream = make(), Stream()
    with pytest.raises(UserError, match="needs .*, 6]"):
        tokenizer.decode(paddle.zeros([1, 1, 2, 2, 5]))
    with pytest.raises(UserError, match=r"latents are \[1, 0"):
        tokenizer.decode(paddle.zeros([1, 0, 2, 2, 6]))
    tokenizer.decode(paddle.zeros([1, 1, 2, 2, 6]), stream)
    with pytest.raises(UserError, match="after one of 1 films of 2 x 2"):
        tokenizer.decode(paddle.zeros([1, 1, 2, 4, 6]), stream)


def test_a_picture_network_is_saved_inflated(tmp_path: Path):
    picture = stirred(VisionTokenizer(make().config, temporal_kernel=1))
    picture.save_pretrained(tmp_path)
    assert VisionTokenizer.from_pretrained(tmp_path).digest == picture.inflated().digest
