"""tools/tokenizer.py from the command line: each kind of tokenizer."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ernie5.data.sounds import write_sound

ROOT = Path(__file__).parents[2]
CONFIG = """
tokenizer:
  encoder: {channels: [8, 8, 16]}
  bits: 6
  resolutions: [{height: 8, width: 8, scales: [[1, 1], [2, 2]]}]
train: {image_steps: 3, video_steps: 2, video_batch_size: 2, video_frames: 2, batch_size: 4, threads: 1}
data: {train: [FOLDER/media]}
output_dir: FOLDER/out
"""
AUDIO_CONFIG = """
tokenizer: {sample_rate: 1600, hop_size: 32, window_size: 64, channels: 16, frame_channels: 16, num_blocks: 1,
  num_frame_blocks: 1, latent_size: 16, num_codebooks: 2, codebook_size: 16}
train: {steps: 3, batch_size: 4, clip_frames: 5, threads: 1, loss: {windows: [128], mel_bands: 8,
  semantic: {weight: 1.0, recogniser_steps: 2}}}
data: {train: [FOLDER/sounds.jsonl], validation: [FOLDER/sounds.jsonl]}
output_dir: FOLDER/out
"""
SPEAKER_CONFIG = """
encoder: {network: {sample_rate: 1600, bands: 8, width: 16, units: 1}, dim: 8}
train: {steps: 2, batch_size: 4}
data: {train: [FOLDER/sounds.jsonl], validation: [FOLDER/sounds.jsonl]}
output_dir: FOLDER/speaker
threads: 1
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools/tokenizer.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with media, a configuration, and the vision tokenizer trained by it."""
    folder = tmp_path_factory.mktemp("vision")
    (folder / "media").mkdir()
    for i in range(6):
        frames = [Image.new("RGB", (10, 10), (40 * i, 90 * t, 0)) for t in range(3)]
        frames[0].save(folder / f"media/{i}.gif", save_all=True, append_images=frames[1:], duration=250)
    (folder / "run.yaml").write_text(CONFIG.replace("FOLDER", str(folder)))
    result = run("train", "vision", "-c", folder / "run.yaml")
    assert result.returncode == 0, result.stderr
    assert "PSNR" in result.stdout
    return folder


def test_vision_training_leaves_a_tokenizer_its_metrics_and_a_sheet(folder: Path):
    names = {path.name for path in (folder / "out").iterdir()}
    assert names == {"config.json", "model.safetensors", "metrics.jsonl", "reconstructions.png"}


def test_a_vision_tokenizer_is_inspected(folder: Path):
    result = run("inspect", folder / "out")
    assert result.returncode == 0, result.stderr
    digest = json.loads((folder / "out/config.json").read_text())["digest"]
    assert digest in result.stdout and "8 x 8: scales 1x1 2x2" in result.stdout


def test_media_are_reconstructed_on_a_sheet(folder: Path):
    sheet = folder / "sheet.png"
    result = run("inspect", folder / "out", "--media", folder / "media", "--sheet", sheet)
    assert result.returncode == 0, result.stderr
    assert "all scales          PSNR" in result.stdout
    with Image.open(sheet) as picture:
        assert picture.width == 3 * 80 and picture.height == 6 * 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "tokenizer.bit=4"], "did you mean tokenizer.bits"),
        (["-o", "tokenizer.bits=0"], "tokenizer.bits is 0: must be above 0"),
        (["-o", "data.train=[nowhere]"], "nowhere is not a file"),
        ([], "exists already"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(folder: Path, arguments: list[str], message: str):
    result = run("train", "vision", "-c", folder / "run.yaml", *arguments)
    assert result.returncode == 2
    assert message in result.stderr and "Traceback" not in result.stderr


def test_a_text_is_not_shown_to_a_vision_tokenizer(folder: Path):
    result = run("inspect", folder / "out", "--text", "hello")
    assert result.returncode == 2 and "is a vision tokenizer: give --media" in result.stderr


def test_a_text_tokenizer_is_trained_and_inspected(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one two three two one " * 50, encoding="utf-8")
    trained = run("train", "text", "--input", tmp_path / "a.txt", "--vocab-size", "600", "--output", tmp_path / "out")
    assert trained.returncode == 0, trained.stderr
    result = run("inspect", tmp_path / "out", "--text", "one two")
    assert result.returncode == 0 and "tokens for 7 characters" in result.stdout
    refused = run("inspect", tmp_path / "out", "--media", tmp_path, "--sheet", tmp_path / "x.png")
    assert refused.returncode == 2 and "is a text tokenizer: give --text" in refused.stderr


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with transcribed sounds, configurations, and the audio tokenizer trained by one of them."""
    folder, lines = tmp_path_factory.mktemp("audio"), []
    for i in range(12):
        tone = 0.2 * np.sin(np.arange(960 + 80 * i) * (0.3 + 0.1 * (i % 3)))
        write_sound(folder / f"{i}.wav", tone, 1600)
        split = ("train", "train", "validation")[i // 4]
        lines.append({"sound": f"{i}.wav", "text": "ab", "speaker": str(i % 3), "split": split})
    (folder / "sounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, text in (("run.yaml", AUDIO_CONFIG), ("speaker.yaml", SPEAKER_CONFIG)):
        (folder / name).write_text(text.replace("FOLDER", str(folder)))
    result = run("train", "audio", "-c", folder / "run.yaml")
    assert result.returncode == 0, result.stderr
    assert "4 sounds" in result.stdout and "mel distance" in result.stdout
    return folder


def test_audio_training_leaves_a_tokenizer_its_teacher_its_metrics_and_samples(audio: Path):
    names = {path.name for path in (audio / "out").iterdir()}
    written = {"config.json", "model.safetensors", "metrics.jsonl", "reconstructions.png"}
    assert names == written | {"recogniser", "samples"}
    assert len(list((audio / "out/samples").iterdir())) == 8


def test_an_audio_tokenizer_is_inspected(audio: Path):
    result = run("inspect", audio / "out")
    assert result.returncode == 0, result.stderr
    digest = json.loads((audio / "out/config.json").read_text())["digest"]
    assert digest in result.stdout and "2 of 16 codes, 100 bits/s" in result.stdout


def test_sounds_are_measured_level_by_level(audio: Path):
    options = ("--media", audio / "sounds.jsonl", "--split", "validation", "--sheet", audio / "sheet.png")
    result = run("inspect", audio / "out", *options, "--recogniser", audio / "out/recogniser")
    assert result.returncode == 0, result.stderr
    assert "of the characters of the originals" in result.stdout and "errors" in result.stdout
    assert [line.split()[0] for line in result.stdout.splitlines()[-2:]] == ["1", "2"]
    with Image.open(audio / "sheet.png") as picture:
        assert picture.height == 4 * (2 * 128 + 4) + 3 * 12


def test_a_speaker_encoder_is_trained_and_measured(audio: Path):
    result = run("train", "speaker", "-c", audio / "speaker.yaml")
    assert result.returncode == 0, result.stderr
    assert "8 numbers a voice, 3 speakers learned" in result.stdout and "equal error rate" in result.stdout
    assert (audio / "speaker/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("audio", ["-o", "train.step=4"], "did you mean train.steps"),
        ("audio", ["-o", "data.train=[nowhere]"], "nowhere is not a file"),
        ("audio", ["-o", "data.train=[AUDIO/0.wav]"], "no sound of data.train has a text"),
        ("audio", [], "exists already"),
        ("speaker", ["-o", "data.train=[AUDIO/0.wav]"], "no sound has a speaker"),
    ],
)
def test_a_mistake_about_sounds_is_told_in_one_sentence(audio: Path, kind: str, arguments: list[str], message: str):
    config = {"audio": "run.yaml", "speaker": "speaker.yaml"}[kind]
    result = run("train", kind, "-c", audio / config, *(text.replace("AUDIO", str(audio)) for text in arguments))
    assert result.returncode == 2
    assert message in result.stderr and "Traceback" not in result.stderr


def test_a_text_is_not_shown_to_an_audio_tokenizer(audio: Path):
    result = run("inspect", audio / "out", "--text", "hello")
    assert result.returncode == 2 and "is an audio tokenizer: give --media" in result.stderr
