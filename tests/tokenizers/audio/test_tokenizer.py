"""The audio tokenizer as a whole: shapes, streaming, what it refuses, its folder."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from ernie5.config.audio_tokenizer import AudioTokenizerConfig
from ernie5.errors import UserError
from ernie5.tokenizers.audio import tokenizer as module
from ernie5.tokenizers.audio.tokenizer import AudioTokenizer, weight_shapes
from ernie5.tokenizers.vision.causal_conv import Stream
from tests.vision_models import stirred

CONFIG = AudioTokenizerConfig(
    sample_rate=400,
    hop_size=8,
    window_size=32,
    channels=16,
    frame_channels=32,
    num_blocks=2,
    num_frame_blocks=1,
    kernel_size=3,
    latent_size=16,
    num_codebooks=3,
    codebook_size=16,
)
FRAME = 32


@pytest.fixture
def tokenizer() -> AudioTokenizer:
    tokenizer = stirred(AudioTokenizer(CONFIG))
    tokenizer.eval()
    return tokenizer


def clips(frames: float, batch: int = 2) -> paddle.Tensor:
    return paddle.rand([batch, int(frames * FRAME)]) * 2 - 1


def test_codes_and_waveform_have_their_shapes(tokenizer):
    codes = tokenizer.encode(clips(3))
    assert codes.dtype == paddle.int64 and codes.shape == [2, 3, 3]
    assert tokenizer.latents(clips(3)).shape == [2, 3, 16]
    assert tokenizer.decode(codes).shape == [2, 3 * FRAME]


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (FRAME, 1), (FRAME + 1, 2), (0, 0)])
def test_a_frame_that_is_begun_counts(tokenizer, samples, frames):
    assert tokenizer.num_frames(samples) == frames


def test_the_last_frame_is_filled_with_zeros(tokenizer):
    waveform = clips(2.5)
    filled = paddle.concat([waveform, paddle.zeros([2, FRAME // 2])], axis=1)
    np.testing.assert_array_equal(tokenizer.encode(waveform).numpy(), tokenizer.encode(filled).numpy())


@pytest.mark.parametrize("chunks", [(1, 1, 1, 1, 1, 1, 1), (2, 4, 1), (3, 0.5), (6, 1)])
def test_a_clip_in_chunks_has_the_same_codes_as_at_once(tokenizer, chunks):
    waveform, stream = clips(sum(chunks)), Stream()
    parts = waveform.split([int(n * FRAME) for n in chunks], axis=1)
    streamed = Stream()
    latents = paddle.concat([tokenizer.latents(part, streamed) for part in parts], axis=1)
    np.testing.assert_array_equal(latents.numpy(), tokenizer.latents(waveform).numpy())
    codes = paddle.concat([tokenizer.encode(part, stream) for part in parts], axis=1)
    np.testing.assert_array_equal(codes.numpy(), tokenizer.encode(waveform).numpy())


def test_codes_in_chunks_are_decoded_as_at_once(tokenizer):
    codes, stream = tokenizer.encode(clips(6)), Stream()
    parts = [tokenizer.decode(part, stream).numpy() for part in codes.split([1, 2, 3], axis=1)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), tokenizer.decode(codes).numpy())


def test_a_long_clip_is_taken_in_blocks(tokenizer, monkeypatch):
    waveform = clips(7.5)
    codes = tokenizer.encode(waveform)
    sound = tokenizer.decode(codes)
    monkeypatch.setattr(module, "BLOCK", 2)
    np.testing.assert_array_equal(tokenizer.encode(waveform).numpy(), codes.numpy())
    np.testing.assert_array_equal(tokenizer.decode(codes).numpy(), sound.numpy())


@pytest.mark.parametrize("frames", [1, 4])
def test_a_clip_does_not_depend_on_what_is_beside_it_or_behind_it(tokenizer, frames):
    waveform = clips(6, batch=5)
    waveform[:, frames * FRAME :] = 0.0
    alone = waveform[3:4, : frames * FRAME]
    latents = tokenizer.latents(waveform)[3:4, :frames]
    np.testing.assert_array_equal(tokenizer.latents(alone).numpy(), latents.numpy())
    codes = tokenizer.encode(waveform)
    np.testing.assert_array_equal(tokenizer.encode(alone).numpy(), codes[3:4, :frames].numpy())
    sound = tokenizer.decode(codes)[3:4, : frames * FRAME]
    np.testing.assert_array_equal(tokenizer.decode(codes[3:4, :frames]).numpy(), sound.numpy())


@pytest.mark.parametrize(
    ("sample_rate", "hop_size", "window_size"), [(8000, 160, 320), (8000, 80, 320), (24_000, 480, 960)]
)
@pytest.mark.parametrize("chunks", [(1, 1, 1, 1, 1, 1, 1), (2, 5), (5, 2)])
def test_networks_of_the_sizes_in_use_stream_to_the_same_bits(sample_rate, hop_size, window_size, chunks):
    config = AudioTokenizerConfig(
        sample_rate=sample_rate, hop_size=hop_size, window_size=window_size, num_codebooks=2, codebook_size=64
    )
    tokenizer = stirred(AudioTokenizer(config))
    tokenizer.eval()
    waveform, heard, spoken = paddle.rand([3, 7 * config.frame_size]) * 2 - 1, Stream(), Stream()
    pieces = waveform.split([config.frame_size * n for n in chunks], axis=1)
    latents = tokenizer.latents(waveform)
    parts = [tokenizer.latents(piece, heard) for piece in pieces]
    np.testing.assert_array_equal(paddle.concat(parts, axis=1).numpy(), latents.numpy())
    sounds = [tokenizer.decoder(part, spoken) for part in latents.split(list(chunks), axis=1)]
    np.testing.assert_array_equal(paddle.concat(sounds, axis=1).numpy(), tokenizer.decoder(latents).numpy())


def test_the_future_changes_no_code(tokenizer):
    waveform = clips(5)
    before = tokenizer.encode(waveform).numpy()
    waveform[:, 3 * FRAME :] = 0.9
    after = tokenizer.encode(waveform).numpy()
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert not np.array_equal(after[:, 3:], before[:, 3:])


def test_training_and_evaluation_differ_by_rounding_alone(tokenizer):
    waveform = clips(4)
    latents = tokenizer.latents(waveform)
    sound = tokenizer.decoder(latents).numpy()
    tokenizer.train()
    np.testing.assert_allclose(tokenizer.latents(waveform).numpy(), latents.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tokenizer.decoder(latents).numpy(), sound, rtol=1e-5, atol=1e-5)


def test_the_loudness_of_a_clip_reaches_the_latents(tokenizer):
    waveform = clips(4)
    loud, quiet = tokenizer.latents(waveform), tokenizer.latents(waveform / 10)
    assert float((loud - quiet).abs().mean()) > 0.1 * float(loud.abs().mean())


def test_the_first_levels_alone_are_a_sound(tokenizer):
    codes = tokenizer.encode(clips(3))
    assert tokenizer.decode(codes[..., :1]).shape == [2, 3 * FRAME]
    assert not np.array_equal(tokenizer.decode(codes[..., :1]).numpy(), tokenizer.decode(codes).numpy())


def test_silence_is_encoded_and_decoded(tokenizer):
    assert np.isfinite(tokenizer.decode(tokenizer.encode(paddle.zeros([1, FRAME]))).numpy()).all()


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros([32], np.float32), r"float32 \[32\]: .*needs float32 \[batch, samples\]"),
        (np.zeros([1, 32], np.float64), r"float64 \[1, 32\]"),
        (np.zeros([1, 0], np.float32), "at least one sample"),
        (np.full([1, 32], np.nan, np.float32), "no finite numbers"),
    ],
)
def test_waveforms_that_do_not_fit_are_refused(tokenizer, waveform, message):
    with pytest.raises(UserError, match=message):
        tokenizer.encode(paddle.to_tensor(waveform))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros([1, 2], np.int64), "needs int64"),
        (np.zeros([1, 2, 3], np.float32), "codes are float32"),
        (np.zeros([1, 0, 3], np.int64), "needs int64"),
        (np.full([1, 2, 3], 16), "codes from 16 to 16"),
        (np.zeros([1, 2, 4], np.int64), "4 levels"),
    ],
)
def test_codes_that_do_not_fit_are_refused(tokenizer, codes, message):
    with pytest.raises(UserError, match=message):
        tokenizer.decode(paddle.to_tensor(codes))


def test_a_chunk_after_the_end_of_a_clip_is_refused(tokenizer):
    stream = Stream()
    tokenizer.encode(clips(1.5), stream)
    with pytest.raises(UserError, match="did not fill its last frame"):
        tokenizer.encode(clips(1), stream)


def test_a_chunk_of_other_clips_is_refused(tokenizer):
    stream = Stream()
    codes = tokenizer.encode(clips(1), stream)
    with pytest.raises(UserError, match="3 clips after one of 2"):
        tokenizer.encode(clips(1, batch=3), stream)
    tokenizer.decode(codes, stream)
    with pytest.raises(UserError, match="1 clips after one of 2"):
        tokenizer.decode(codes[:1], stream)


def test_gradients_reach_every_weight(tokenizer):
    tokenizer.train()
    quantized = tokenizer.quantizer(tokenizer.latents(clips(4)))
    tokenizer.decoder(quantized.latents).square().sum().backward()
    assert not [name for name, p in tokenizer.named_parameters() if p.grad is None or not float(p.grad.abs().sum())]


def test_a_saved_tokenizer_loads_back(tokenizer, tmp_path: Path):
    tokenizer.quantizer.initialise(tokenizer.latents(clips(4)), np.random.default_rng(0))
    tokenizer.save_pretrained(tmp_path / "saved")
    loaded = AudioTokenizer.from_pretrained(tmp_path / "saved")
    assert loaded.config == CONFIG and loaded.digest == tokenizer.digest and not loaded.training
    assert loaded.quantizer.initialised
    waveform = clips(3)
    np.testing.assert_array_equal(loaded.encode(waveform).numpy(), tokenizer.encode(waveform).numpy())


def test_the_digest_changes_with_a_code_and_with_a_setting(tokenizer):
    before = tokenizer.digest
    tokenizer.quantizer.vectors[0, 0, 0] += 1.0
    changed = tokenizer.digest
    tokenizer.config = replace(CONFIG, sample_rate=800)
    assert len({before, changed, tokenizer.digest}) == 3


def test_weights_checked_before_building_are_those_of_the_network(tokenizer):
    weights = tokenizer.state_dict()
    assert {name: weights[name].shape for name in weight_shapes(CONFIG)} == weight_shapes(CONFIG)


def change(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def change_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def another_type(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: array.astype(np.float64) for name, array in weights.items()}, folder / "model.safetensors")


def one_more(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"extra": np.zeros(1, np.float32)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut_weights, "not a whole safetensors file"),
        (change_weights, "not those that its config.json was written for"),
        (another_type, "weights do not fit its config.json"),
        (one_more, "1 weights do not fit its config.json, such as extra"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), "cannot be read"),
        (lambda folder: change(folder, codebook_size=32), "weights do not fit its config.json"),
        (lambda folder: change(folder, num_blocks=3), "weights do not fit its config.json"),
        (lambda folder: change(folder, format=0), "was written by another version"),
        (lambda folder: change(folder, model_type="other"), "is not of an ernie5 audio tokenizer"),
        (lambda folder: change(folder, channels=160_000), "channels is 160000: must be at most 4096"),
        (lambda folder: change(folder, codebooks=3), "did you mean num_codebooks"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "is not of an ernie5 audio tokenizer"),
    ],
)
def test_a_harmed_folder_is_refused(tokenizer, tmp_path: Path, harm: Callable[[Path], None], message: str):
    tokenizer.save_pretrained(tmp_path)
    harm(tmp_path)
    with pytest.raises(UserError, match=message):
        AudioTokenizer.from_pretrained(tmp_path)
