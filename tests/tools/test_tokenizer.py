"""tools/tokenizer.py from the command line: both kinds of tokenizer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

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
    assert refused.returncode == 2 and "is no vision tokenizer" in refused.stderr
