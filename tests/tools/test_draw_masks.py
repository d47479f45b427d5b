"""tools/draw_masks.py: it draws every rule, and the pictures in the documentation show today's masks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs" / "images" / "masks"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("drawn") / "masks"
    command = [sys.executable, "tools/draw_masks.py", "--output", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return folder


def read_digests(folder: Path) -> dict:
    return json.loads((folder / "masks.json").read_text(encoding="utf-8"))


def test_committed_pictures_show_the_masks_of_today(drawn: Path):
    remedy = "the masks have changed: python tools/draw_masks.py --output docs/images/masks, and look at them"
    assert read_digests(drawn) == read_digests(COMMITTED), remedy


def test_digests_tell_the_rules_apart():
    digests = [mask["sha256"] for mask in read_digests(COMMITTED).values()]
    assert len(set(digests)) == len(digests) == 7


def test_picture_is_drawn_of_every_mask(drawn: Path):
    from PIL import Image

    for name in read_digests(drawn):
        with Image.open(drawn / f"{name}.png") as picture:
            colours = picture.convert("RGB").getcolors(1 << 20)
        assert len(colours) > 20, f"{name}.png is blank"


def test_guide_shows_every_committed_picture_and_no_other():
    guide = (ROOT / "docs" / "guides" / "masks.md").read_text(encoding="utf-8")
    names = set(read_digests(COMMITTED))
    assert {path.stem for path in COMMITTED.glob("*.png")} == names
    assert all(f"(../images/masks/{name}.png)" in guide for name in names)
    assert guide.count("../images/masks/") == len(names)


def test_output_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    command = [sys.executable, "tools/draw_masks.py", "--output", str(tmp_path / "file")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (2, f"error: --output {tmp_path / 'file'}: is a file: give a folder\n")
