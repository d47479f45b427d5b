"""The refiner's tool on files: it trains on a folder or a manifest and refines pictures and films."""

import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from ernie5.config.load import load_as
from ernie5.config.refiner import RefinerRunConfig, check_run
from ernie5.errors import UserError

ROOT = Path(__file__).parents[2]
CONFIG = """
refiner: {channels: [8], blocks_per_level: 1, embedding_size: 8}
train: {steps: 2, batch_size: 2, crop: 16, sample_steps: 1, threads: 1}
data: {train: [PATH], short_side: 24}
output_dir: RUN
"""
APPLY = ["apply", "{}/run/model", "--input", "{}/media/3.png", "--output", "{}/new.png"]


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
    # Six files: one in ten, at least one, is held out; one is smaller than a cut.
    assert (facts(folder / "run")["media"], facts(folder / "run")["held_out"]) == (4, 1)


def run_file(folder: Path, *overrides: str) -> RefinerRunConfig:
    return load_as(RefinerRunConfig, folder / "run.yaml", list(overrides))


def test_a_manifest_gives_each_medium_once(folder: Path, tool: ModuleType):
    path = folder / "two.jsonl"
    config = run_file(folder, f"data.train=[{path}]", f"data.validation=[{path}]")
    for media in tool.find_originals(config):
        assert [Path(file.path).name for file in media] == ["0.png", "1.png"]


def test_the_asked_share_of_files_is_held_out(folder: Path, tool: ModuleType):
    train, held_out = tool.find_originals(run_file(folder, "data.validation_fraction=0.5"))
    assert (len(train), len(held_out)) == (3, 3) and not set(train) & set(held_out)


def test_digits_hold_out_their_validation_scans(folder: Path, tool: ModuleType):
    held_out = tool.find_originals(run_file(folder, "data.train=[digits]", "data.max_validation_media=1000"))[1]
    expected = tool.draw_digits("validation")
    assert len(held_out) == len(expected) and all(map(np.array_equal, held_out, expected))


def test_media_that_fill_the_memory_are_refused(folder: Path, tool: ModuleType):
    config = run_file(folder, "data.max_bytes=3000")
    with pytest.raises(UserError, match="take more than data.max_bytes, 3000: lower data.max_media"):
        tool.load(tool.find_originals(config)[0], config.data, 16)


def examples() -> list[str]:
    return [line for line in (ROOT / "tools/refiner.py").read_text().split('"""')[1].splitlines() if " train " in line]


@pytest.mark.parametrize("line", examples())
def test_examples_of_the_help_name_settings_that_exist(line: str):
    words = shlex.split(line)
    overrides = [words[i + 1] for i, word in enumerate(words) if word == "-o"]
    path = ROOT / words[words.index("-c") + 1]
    check_run(load_as(RefinerRunConfig, path, overrides), str(path))


def test_digits_are_the_scans_of_their_split_and_some_of_them_move(tool: ModuleType):
    media = tool.draw_digits("validation")
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
            "not a file, a folder or a glob",
        ),
        (["train", "-c", "{}/run.yaml", "-o", "train.seed=-1", "-o", "output_dir={}/new"], "seed is -1"),
        (["train", "-c", "{}/run.yaml", "-o", "output_dir={}/two.jsonl/new"], "cannot be made"),
        (["train", "-c", "{}/run.yaml"], "is in use"),
        ([*APPLY, "--seed", "-1"], "--seed is -1"),
        ([*APPLY, "--threads", "-3"], "--threads is -3"),
        ([*APPLY, "--max-frames", "-1"], "--max-frames is -1"),
        ([*APPLY[:-1], "{}/nothing/new.png"], "make it first"),
        ([*APPLY[:-1], "{}/new.foo"], "names no format"),
    ],
)
def test_mistakes_exit_with_2_and_one_sentence(folder: Path, arguments: list[str], message: str):
    result = call(*(argument.replace("{}", str(folder)) for argument in arguments))
    assert result.returncode == 2, result.stderr
    assert message in result.stderr and "Traceback" not in result.stderr
    assert not (folder / "new").exists() and not (folder / "new.png").exists()
