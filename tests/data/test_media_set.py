"""Media of folders and manifests."""

import json
from pathlib import Path

import pytest
from PIL import Image

from ernie5.config.schema import ResolutionConfig
from ernie5.data.media_set import MediaFile, choose_evenly, find_media, read_media, split_off
from ernie5.errors import UserError

TABLE = (ResolutionConfig(height=8, width=8, scales=((1, 1), (2, 2))),)


def draw(path: Path, frames: int = 1, size: int = 8) -> str:
    """A picture, or with frames a film of 10 frames a second."""
    first, *others = [Image.new("RGB", (size, size), (20 * i, 0, 0)) for i in range(1, frames + 1)]
    moving = {"save_all": True, "append_images": others, "duration": 100} if others else {}
    first.save(path, **moving)
    return str(path)


def test_a_folder_gives_its_pictures_and_films_and_nothing_else(tmp_path: Path):
    picture, film = draw(tmp_path / "a.png"), draw(tmp_path / "b.GIF", frames=2)
    (tmp_path / "notes.txt").write_text("no medium")
    assert find_media([str(tmp_path)], fps=2.0) == [MediaFile(picture), MediaFile(film, 2.0)]


def test_a_manifest_gives_each_medium_of_its_segments_once(tmp_path: Path):
    picture, film = draw(tmp_path / "a.png"), draw(tmp_path / "b.gif", frames=2)
    image = {"type": "image", "source": "a.png", "role": "understand"}
    video = {"type": "video", "source": "b.gif", "role": "generate", "fps": 5}
    lines = [{"segments": [image, {"type": "text", "text": "x"}, video]}, {"segments": [image]}, {"text": "none"}]
    manifest = tmp_path / "all.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert find_media([str(manifest)], fps=2.0) == [MediaFile(picture), MediaFile(film, 5.0)]


def test_a_path_without_media_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no medium")
    with pytest.raises(UserError, match="holds no picture and no film"):
        find_media([str(tmp_path)], fps=2.0)


def test_media_are_read_at_the_size_of_the_table(tmp_path: Path):
    files = [MediaFile(draw(tmp_path / "a.png", size=20)), MediaFile(draw(tmp_path / "b.gif", 4), 10.0)]
    seen: list[int] = []
    picture, film = read_media(files, TABLE, max_frames=8, progress=seen.append)
    assert picture.shape == (1, 8, 8, 3) and film.shape == (4, 8, 8, 3)
    assert film[:, 0, 0, 0].tolist() == pytest.approx([20, 40, 60, 80], abs=4)
    assert seen == [1, 1]


def test_choice_is_even_and_0_means_all():
    files = [MediaFile(str(i)) for i in range(10)]
    assert [file.path for file in choose_evenly(files, 5)] == ["0", "2", "4", "6", "8"]
    assert choose_evenly(files, 0) == choose_evenly(files, 20) == files


def test_a_split_is_whole_and_repeats():
    files = [MediaFile(str(i)) for i in range(10)]
    rest, share = split_off(files, 0.3, seed=1)
    assert len(share) == 3 and sorted(rest + share) == files
    assert split_off(files, 0.3, seed=1) == (rest, share)
    assert split_off(files, 0.3, seed=2)[1] != share


def test_a_single_medium_cannot_be_split():
    with pytest.raises(UserError, match="a single medium"):
        split_off([MediaFile("a")], 0.5, seed=0)
