"""The refiner's tool on files: it trains on a folder or a manifest and refines pictures and films."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
CONFIG = """
refiner: {channels: [8], blocks_per_level: 1, embedding_size: 8}
train: {steps: 2, batch_size: 2, crop: 16, sample_steps: 1, threads: 1}
data: {train: [PATH], short_side: 24}
output_dir: RUN
"""


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("refiner_tool", ROOT / "tools/refiner.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/refiner.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, one of them too small, a film, and a manifest of two of them; the trained run is `run`."""
    folder = tmp_path_factory.mktemp("refiner")
    media = folder / "media"
    media.mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate([(32, 40), (30, 24), (24, 50), (16, 16), (8, 8)]):
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(media / f"{i}.png")
    frames = [Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)) for _ in range(3)]
    frames[0].save(media / "film.gif", save_all=True, append_images=frames[1:], duration=125)
    (media / "notes.txt").write_text("not a picture")
    lines = [{"segments": [{"type": "image", "source": f"media/{i}.png", "role": "generate"}]} for i in (0, 1, 1)]
    (folder / "two.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = CONFIG.replace("PATH", str(media)).replace("RUN", str(folder / "run"))
    (folder / "run.yaml").write_text(text)
    result = call("train", "-c", folder / "run.yaml")
    assert result.returncode == 0, result.stderr
    assert "1 of 5 media are smaller than train.crop, 16" in result.stderr
    return folder


def facts(run: Path) -> dict:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[0])


def test_media_of_a_folder_are_split_and_small_ones_left_out(folder: Path):
    # Six files: one in ten, so the first, is held out; one is smaller than a cut.
    assert (facts(folder / "run")["media"], facts(folder / "run")["held_out"]) == (4, 1)


def test_a_manifest_gives_each_medium_once(folder: Path, tool: ModuleType):
    media = tool.media_of((str(folder / "two.jsonl"), str(folder / "two.jsonl")), "train")
    assert [Path(path).name for path in media] == ["0.png", "1.png"]


def test_digits_are_the_scans_of_their_split_and_some_of_them_move(tool: ModuleType):
    media = tool.media_of(("digits",), "validation")
    films = [medium for medium in media if len(medium) > 1]
    assert all(medium.shape[1:] == (32, 32, 3) and medium.dtype == np.uint8 for medium in media)
    assert len(films) == -(-(len(media) - len(films)) // 4)
    assert all(np.abs(np.diff(film.astype(int), axis=0)).max((1, 2, 3)).all() for film in films)


def test_a_film_is_refined_frame_for_frame(folder: Path):
    output = folder / "large.gif"
    result = call("apply", folder / "run/model", "--input", folder / "media/film.gif", "--output", output, "--steps", 1)
    assert result.returncode == 0, result.stderr
    with Image.open(output) as image:
        assert (image.size, image.n_frames) == ((32, 32), 3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["apply", "{}/run/model", "--input", "{}/media/3.png", "--output", "{}/media/0.png"], "exists already"),
        (["apply", "{}/run/model", "--input", "{}/media/notes.txt", "--output", "{}/new.png"], "cannot be read as"),
        (
            ["train", "-c", "{}/run.yaml", "-o", "data.train=[{}/nothing]", "-o", "output_dir={}/new"],
            "holds no picture",
        ),
    ],
)
def test_mistakes_exit_with_2_and_one_sentence(folder: Path, arguments: list[str], message: str):
    result = call(*(argument.replace("{}", str(folder)) for argument in arguments))
    assert result.returncode == 2, result.stderr
    assert message in result.stderr and "Traceback" not in result.stderr
