"""Media that are written can be read again, with the same frames at the same times."""

import sys

import numpy as np
import pytest

from ernie5.data.media import read_image, read_video
from ernie5.errors import UserError
from ernie5.inference import media_files
from ernie5.inference.media_files import contact_sheet, enlarge, save_media, save_mp4, save_png, shrink

COLOURS = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0], [20, 40, 60]], dtype=np.uint8)


def film(height=16, width=24):
    """A film of a colour a frame."""
    return np.broadcast_to(COLOURS[:, None, None], (len(COLOURS), height, width, 3)).copy()


def difference(a, b) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


def test_png_is_without_loss(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    save_png(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), picture[None])


@pytest.mark.parametrize("ending, loss", [("gif", 0), ("webp", 0), ("mp4", 6)])
@pytest.mark.parametrize("fps", [0.5, 4, 12.5, 24, 29.97, 30])
def test_film_comes_back_with_the_same_frames_at_the_same_times(tmp_path, ending, loss, fps):
    path = tmp_path / f"a.{ending}"
    save_media(path, film(), fps)
    assert difference(read_video(str(path), fps, 64), film()) <= loss
    assert difference(read_video(str(path), 2 * fps, 64), film().repeat(2, axis=0)) <= loss


@pytest.mark.parametrize("ending", ["gif", "mp4"])
def test_film_that_stands_still_keeps_its_length(tmp_path, ending):
    save_media(tmp_path / f"a.{ending}", film()[:1].repeat(6, axis=0), 4)
    assert len(read_video(str(tmp_path / f"a.{ending}"), 4, 64)) == 6


def test_enlarged_film_comes_back_from_a_gif(tmp_path):
    save_media(tmp_path / "a.gif", enlarge(film(), 3), 4)
    np.testing.assert_array_equal(read_video(str(tmp_path / "a.gif"), 4, 64), enlarge(film(), 3))


def test_large_film_is_shrunk_to_the_side_asked_for():
    wide = np.zeros([2, 30, 120, 3], np.uint8)
    wide[:, :, :60] = 200
    small = shrink(wide, 40)
    assert small.shape == (2, 10, 40, 3)
    np.testing.assert_array_equal(small[:, :, [0, -1]].mean((0, 1, 3)), [200, 0])


def test_odd_sides_of_an_mp4_are_padded(tmp_path):
    pytest.importorskip("av")
    save_mp4(tmp_path / "a.mp4", film(15, 23), 4)
    assert difference(read_video(str(tmp_path / "a.mp4"), 4, 64), film(16, 24)) <= 6


def test_mp4_is_written_without_x264(tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    save_mp4(tmp_path / "a.mp4", film(), 4)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    assert difference(read_video(str(tmp_path / "a.mp4"), 4, 64), film()) <= 6


def test_picture_fits_every_ending(tmp_path):
    for ending in ("png", "gif", "webp", "mp4"):
        save_media(tmp_path / f"a.{ending}", film()[:1], 4)
        assert difference(read_video(str(tmp_path / f"a.{ending}"), 4, 64), film()[:1]) <= 6


@pytest.mark.parametrize("name, told", [("a.avi", 'the ending ".avi"'), ("a", "a name without an ending")])
def test_unknown_ending_is_refused_with_the_known_ones(tmp_path, name, told):
    with pytest.raises(UserError, match="use .png, .gif, .mp4 or .webp") as caught:
        save_media(tmp_path / name, film(), 4)
    assert told in str(caught.value)


def test_film_is_no_png(tmp_path):
    with pytest.raises(UserError, match="a .png holds one picture, not 5 frames"):
        save_media(tmp_path / "a.png", film(), 4)


@pytest.mark.parametrize("ending, fps", [("gif", 51), ("gif", 0), ("mp4", 0), ("mp4", float("nan")), ("webp", -1)])
def test_rate_that_cannot_be_written_is_refused(tmp_path, ending, fps):
    with pytest.raises(UserError, match="frames a second"):
        save_media(tmp_path / f"a.{ending}", film(), fps)


def test_folder_is_made(tmp_path):
    save_png(tmp_path / "new" / "a.png", film()[0])
    assert (tmp_path / "new" / "a.png").is_file()


def test_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UserError, match="a.png: cannot be written"):
        save_png(tmp_path / "a.png", film()[0])
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    save_png(tmp_path / "a.png", film()[0])
    before = (tmp_path / "a.png").read_bytes()

    def fail(picture, path, **options):
        path.write_bytes(b"half")
        raise RuntimeError("killed")

    monkeypatch.setattr(media_files.Image.Image, "save", fail)
    with pytest.raises(RuntimeError):
        save_png(tmp_path / "a.png", film()[1])
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", before)]


def test_missing_encoder_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'ernie5\[data\]'"):
        save_mp4(tmp_path / "a.mp4", film(), 4)


def test_enlarge_makes_squares_of_pixels():
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    large = enlarge(picture, 2)
    assert large.shape == (4, 4, 3)
    assert all((large[i, j] == picture[i // 2, j // 2]).all() for i in range(4) for j in range(4))


def test_contact_sheet_has_pictures_in_rows_on_white():
    pictures = [np.full((4, 6, 3), i, dtype=np.uint8) for i in range(3)]
    sheet = contact_sheet(pictures, columns=2, pad=1)
    assert sheet.shape == (11, 15, 3)
    for i, (top, left) in enumerate([(1, 1), (1, 8), (6, 1)]):
        assert (sheet[top : top + 4, left : left + 6] == i).all()
        sheet[top : top + 4, left : left + 6] = 255
    assert (sheet == 255).all()


def test_contact_sheet_centres_smaller_pictures_and_is_no_wider_than_needed():
    pictures = [np.zeros((2, 2, 3), dtype=np.uint8), np.zeros((4, 6, 3), dtype=np.uint8)]
    sheet = contact_sheet(pictures, columns=10, pad=0)
    assert sheet.shape == (4, 12, 3)
    assert np.argwhere(sheet[:, :6, 0] == 0).tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
