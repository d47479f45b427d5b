"""The Whisper teacher computes what transformers computes, from its folder, at the rate of the codes."""

import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from ernie5.errors import UserError
from ernie5.tokenizers.audio.whisper import WhisperEncoder, log_mel, resampled

GOLDEN = Path(__file__).parents[2] / "golden" / "whisper_encoder"
EXPECTED = np.load(GOLDEN / "expected.npz")
WINDOW = 25  # frames


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "whisper"))


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_spectrogram_is_that_of_transformers():
    padded = np.pad(EXPECTED["waveforms"], [(0, 0), (0, 32_000 - EXPECTED["waveforms"].shape[1])])
    np.testing.assert_allclose(log_mel(padded, 20), EXPECTED["mel"], atol=1e-4)


def test_states_are_those_of_transformers():
    states = WhisperEncoder(GOLDEN, 16_000)(paddle.to_tensor(EXPECTED["mel"]))
    np.testing.assert_allclose(states.numpy(), EXPECTED["hidden"], atol=1e-4)


def test_features_are_means_of_four_states_of_the_clip():
    features = WhisperEncoder(GOLDEN, 16_000).features(paddle.to_tensor(EXPECTED["waveforms"]))
    expected = EXPECTED["hidden"][:, : 4 * 8].reshape(2, 8, 4, 16).mean(axis=2)
    np.testing.assert_allclose(features.numpy(), expected, atol=2e-4)
    assert features.stop_gradient


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (640, 1), (641, 2), (WINDOW * 640 + 1, WINDOW + 1)])
def test_frames_are_those_of_the_codec(samples: int, frames: int):
    encoder = WhisperEncoder(GOLDEN, 8000)
    assert encoder.features(paddle.randn([1, samples])).shape == [1, frames, encoder.dim]


def test_a_clip_longer_than_a_window_is_heard_in_windows():
    encoder, waveform = WhisperEncoder(GOLDEN, 16_000), 0.1 * paddle.randn([1, 2 * 32_000])
    halves = [encoder.features(waveform[:, start : start + 32_000]) for start in (0, 32_000)]
    np.testing.assert_allclose(encoder.features(waveform).numpy(), paddle.concat(halves, axis=1).numpy(), atol=1e-5)


def test_another_rate_is_resampled():
    found = resampled(EXPECTED["waveforms"], 16_000)
    np.testing.assert_array_equal(found, EXPECTED["waveforms"])


@pytest.mark.parametrize("rate", [8000, 24_000, 44_100])
def test_a_tone_sounds_alike_at_every_rate(rate: int):
    fades = lambda time: np.sin(2 * np.pi * 440 * time) * np.exp(-(((time - 0.4) / 0.1) ** 2))  # noqa: E731
    at_rate = fades(np.arange(round(0.8 * rate)) / rate).astype(np.float32)
    np.testing.assert_allclose(resampled(at_rate[None], rate)[0], fades(np.arange(12_800) / 16_000), atol=1e-4)


def test_resampling_is_that_of_scipy():
    signal = pytest.importorskip("scipy.signal")
    noise = np.random.default_rng(0).standard_normal([1, 5 * 1920])
    noise = signal.sosfilt(signal.butter(8, 6000, output="sos", fs=24_000), noise)
    expected = signal.resample(np.pad(noise, [(0, 0), (0, 1920)]), 6 * 1280, axis=1)[:, : 5 * 1280]
    np.testing.assert_allclose(resampled(noise.astype(np.float32), 24_000), expected, atol=2e-3)


def test_weights_do_not_train():
    assert all(parameter.stop_gradient for parameter in WhisperEncoder(GOLDEN, 8000).parameters())


def test_half_precision_and_names_of_a_bare_model_are_read(folder: Path):
    path = folder / "model.safetensors"
    weights = {name.removeprefix("model."): w.astype(np.float16) for name, w in load_file(path).items()}
    save_file(weights, path)
    states = WhisperEncoder(folder, 16_000)(paddle.to_tensor(EXPECTED["mel"]))
    np.testing.assert_allclose(states.numpy(), EXPECTED["hidden"], atol=2e-2)


def test_another_kind_of_model_is_refused(folder: Path):
    change_config(folder, model_type="bert")
    with pytest.raises(UserError, match="model_type is not whisper"):
        WhisperEncoder(folder, 8000)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("d_model", "wide", "d_model is wide: must be a number above 0"),
        ("encoder_attention_heads", 3, "d_model is 16: must be a multiple of its 3 heads"),
        ("max_source_positions", 50, "max_source_positions is 50: must be a multiple of 4"),
        ("activation_function", "relu", "activation_function is relu: must be gelu"),
        ("encoder_ffn_dim", 48, r"layers.0.fc1.weight is of shape \[32, 16\] in model.safetensors"),
        ("encoder_layers", 3, r"encoder.layers.2.\S+ is missing in model.safetensors"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(folder: Path, key: str, value: object, message: str):
    change_config(folder, **{key: value})
    with pytest.raises(UserError, match=message):
        WhisperEncoder(folder, 8000)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_refused(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: cannot be read .*: name a folder with the config.json"):
        WhisperEncoder(folder, 8000)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_broken_file_is_refused(folder: Path, name: str):
    (folder / name).write_bytes(b"\x01broken")
    with pytest.raises(UserError, match=name):
        WhisperEncoder(folder, 8000)
