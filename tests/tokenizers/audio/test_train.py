"""The training of an audio tokenizer, on a handful of tiny sounds."""

import json
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ernie5.config.audio_tokenizer import (
    AudioAdversarialConfig,
    AudioLossConfig,
    AudioSemanticConfig,
    AudioTokenizerConfig,
    AudioTokenizerDataConfig,
    AudioTokenizerRunConfig,
    AudioTokenizerTrainConfig,
)
from ernie5.errors import Fault, UserError
from ernie5.tokenizers.audio import train as training
from ernie5.tokenizers.audio.recogniser import Recogniser
from ernie5.tokenizers.audio.tokenizer import AudioTokenizer
from ernie5.tokenizers.audio.train import check_start, train_audio_tokenizer

PLAIN = AudioLossConfig(windows=(64, 32), mel_bands=8)


def run_config(output: Path | str, **train: object) -> AudioTokenizerRunConfig:
    sizes = {"channels": 16, "frame_channels": 16, "num_blocks": 1, "num_frame_blocks": 1, "latent_size": 16}
    settings = {"steps": 4, "batch_size": 4, "clip_frames": 5, "eval_steps": 0, "log_steps": 1}
    return AudioTokenizerRunConfig(
        tokenizer=AudioTokenizerConfig(
            sample_rate=800, hop_size=16, window_size=32, num_codebooks=2, codebook_size=16, **sizes
        ),
        train=AudioTokenizerTrainConfig(**settings | {"loss": PLAIN} | train),
        data=AudioTokenizerDataConfig(train=("unused",)),
        output_dir=str(output),
    )


def sounds(number: int = 6) -> list[np.ndarray]:
    """Tones of half a second and more, float32 [samples]."""
    times = [np.arange(400 + 30 * i) / 800 for i in range(number)]
    return [(0.2 * np.sin(2 * np.pi * (60 + 40 * i) * t)).astype(np.float32) for i, t in enumerate(times)]


def records(folder: Path, kind: str) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_the_folder_holds_tokenizer_metrics_sheet_and_sounds(tmp_path: Path):
    tokenizer, quality = train_audio_tokenizer(run_config(tmp_path / "out"), sounds(), sounds(2))
    assert not tokenizer.training
    assert AudioTokenizer.from_pretrained(tmp_path / "out").digest == tokenizer.digest
    assert [record["step"] for record in records(tmp_path / "out", "train")] == [1, 2, 3, 4]
    assert records(tmp_path / "out", "eval")[-1]["mel_distance"] == list(quality.mel_distance)
    with Image.open(tmp_path / "out/reconstructions.png") as sheet:
        assert sheet.height == 2 * (2 * 128 + 4) + 12
    with wave.open(str(tmp_path / "out/samples/1_reconstruction.wav")) as file:
        assert (file.getframerate(), file.getnframes()) == (800, 430)


def test_training_learns_its_sounds(tmp_path: Path):
    config = run_config(tmp_path / "out", steps=60, learning_rate=1e-2, eval_steps=25)
    train_audio_tokenizer(config, sounds(), sounds())
    quality = records(tmp_path / "out", "eval")
    assert [record["step"] for record in quality] == [25, 50, 60]
    losses = [record["mel"] for record in records(tmp_path / "out", "train")]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_a_seed_repeats(tmp_path: Path):
    digests = [
        train_audio_tokenizer(run_config(tmp_path / str(i), seed=seed), sounds(), sounds(1))[0].digest
        for i, seed in enumerate((1, 1, 2))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_an_adversary_sets_in_at_its_step_and_changes_what_is_learned(tmp_path: Path):
    adversarial = AudioAdversarialConfig(weight=1.0, periods=(2,), resolutions=(64,), channels=4, start_step=2)
    loss = replace(PLAIN, adversarial=adversarial)
    plain, _ = train_audio_tokenizer(run_config(tmp_path / "plain"), sounds(), sounds(1))
    other, _ = train_audio_tokenizer(run_config(tmp_path / "other", loss=loss), sounds(), sounds(1))
    found = records(tmp_path / "other", "train")
    assert ["discriminator" in record for record in found] == [False, False, True, True]
    assert {"adversarial", "features"} < found[-1].keys()
    assert other.digest != plain.digest


def test_a_recogniser_is_trained_first_and_kept(tmp_path: Path):
    loss = replace(PLAIN, semantic=AudioSemanticConfig(weight=1.0, recogniser_steps=2))
    transcripts = [(sound, "ab") for sound in sounds()]
    train_audio_tokenizer(run_config(tmp_path / "out", loss=loss), sounds(), sounds(1), transcripts)
    assert Recogniser.from_pretrained(tmp_path / "out/recogniser").config.symbols == ("a", "b")
    assert "semantic" in records(tmp_path / "out", "train")[0]


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_a_teacher_without_texts_is_refused_before_the_sounds_are_read(texts: list[str], tmp_path: Path):
    loss = replace(PLAIN, semantic=AudioSemanticConfig(weight=1.0))
    with pytest.raises(UserError, match="no sound of data.train has a text"):
        check_start(run_config(tmp_path / "out", loss=loss), texts)
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_is_not_there_is_refused_before_the_sounds_are_read(tmp_path: Path):
    loss = replace(PLAIN, semantic=AudioSemanticConfig(weight=1.0, teacher=str(tmp_path / "nothing")))
    with pytest.raises(UserError, match="name a folder with the config.json"):
        check_start(run_config(tmp_path / "out", loss=loss), ["a"])


def test_a_folder_that_holds_something_is_refused(tmp_path: Path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        train_audio_tokenizer(run_config(tmp_path), sounds(), sounds(1))


@pytest.mark.parametrize("validation", [[], [np.zeros(800, np.float32)]])
def test_nothing_to_measure_on_is_refused(validation: list[np.ndarray], tmp_path: Path):
    with pytest.raises(UserError, match="data.validation holds no sound but silence"):
        train_audio_tokenizer(run_config(tmp_path / "out"), sounds(), validation)


def test_a_loss_that_is_not_finite_is_a_fault_and_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training, "leveled", lambda clips, rng: np.full_like(clips, 1e30))
    with pytest.raises(Fault, match="not finite at step 1"):
        train_audio_tokenizer(run_config(tmp_path / "out"), sounds(), sounds(1))
    assert not (tmp_path / "out/config.json").exists()


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spoiled = replace(
        training.evaluate(AudioTokenizer(run_config("x").tokenizer).eval(), sounds(1)), mel_distance=(np.nan,)
    )
    monkeypatch.setattr(training, "evaluate", lambda tokenizer, sounds: spoiled)
    with pytest.raises(Fault, match="a weight is not finite after step 4"):
        train_audio_tokenizer(run_config(tmp_path / "out"), sounds(), sounds(1))
    assert not (tmp_path / "out/config.json").exists()
