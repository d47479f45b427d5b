"""Pictures come out of their files as they are seen, and every bad file is refused in one sentence."""

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ernie5.data.media import read_image
from ernie5.data.pictures import refusals
from ernie5.errors import UserError

ROOT = Path(__file__).parents[2]


def noise(height=40, width=60, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def refusal(path, **arguments) -> str:
    """What the user is told."""
    with pytest.raises(UserError) as caught:
        read_image(str(path), **arguments)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_blank_png(path, height: int, width: int) -> None:
    """A grey PNG written row by row, however large."""
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b""))


@pytest.mark.parametrize("ending, options", [("png", {}), ("webp", {"lossless": True}), ("bmp", {}), ("tiff", {})])
def test_lossless_picture_is_read_exactly(tmp_path, ending, options):
    Image.fromarray(noise()).save(tmp_path / f"a.{ending}", **options)
    np.testing.assert_array_equal(read_image(str(tmp_path / f"a.{ending}")), noise()[None])


def test_jpeg_is_read(tmp_path):
    Image.new("RGB", (20, 10), (200, 100, 50)).save(tmp_path / "a.jpg", quality=95)
    frames = read_image(str(tmp_path / "a.jpg"))
    assert frames.shape == (1, 10, 20, 3) and frames.dtype == np.uint8
    assert np.abs(frames.astype(int) - [200, 100, 50]).max() <= 3


def test_transparency_lies_on_white(tmp_path):
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image(str(tmp_path / "a.png"))[0, 0].tolist() == [[10, 20, 30], [255, 255, 255], [204, 204, 204]]


def test_transparent_colour_of_a_palette_is_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=1)
    assert read_image(str(tmp_path / "a.png"))[0, 0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert read_image(str(tmp_path / "a.png"))[0, 0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_bits_in_a_32_bit_mode_are_scaled_too(tmp_path):
    Image.fromarray(np.array([[0, 32896, 65535]], dtype=np.int32)).save(tmp_path / "a.tiff")
    assert read_image(str(tmp_path / "a.tiff"))[0, 0, :, 0].tolist() == [0, 128, 255]


def test_values_without_an_agreed_range_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 70000]], dtype=np.int32)).save(tmp_path / "a.tiff")
    assert "neither of 8 nor of 16 bits" in refusal(tmp_path / "a.tiff")
    Image.fromarray(np.array([[0.0, 0.5]], dtype=np.float32)).save(tmp_path / "b.tiff")
    assert "floating-point" in refusal(tmp_path / "b.tiff")


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(str(tmp_path / "a.jpg"))[0, 4, 4].astype(int) - [0, 255, 255]).max() <= 3


def test_grey_and_bilevel_become_rgb(tmp_path):
    Image.fromarray(np.array([[7, 200]], dtype=np.uint8)).save(tmp_path / "grey.png")
    assert read_image(str(tmp_path / "grey.png"))[0, 0].tolist() == [[7] * 3, [200] * 3]
    Image.new("1", (2, 1), 1).save(tmp_path / "bilevel.png")
    assert read_image(str(tmp_path / "bilevel.png"))[0, 0].tolist() == [[255] * 3] * 2


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown a quarter clockwise
    Image.fromarray(noise(2, 3)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png"))[0], np.rot90(noise(2, 3), -1))


@pytest.mark.parametrize("ending", ["png", "gif", "webp"])
def test_moving_picture_gives_its_first_frame(tmp_path, ending):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if ending == "webp" else {}
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], duration=100, **options)
    pixels = read_image(str(tmp_path / f"a.{ending}"))
    assert pixels.shape == (1, 8, 8, 3) and pixels[0, 0, 0].tolist() == [255, 0, 0]


def test_one_pixel_is_a_picture(tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "a.png")
    assert read_image(str(tmp_path / "a.png")).tolist() == [[[[1, 2, 3]]]]


def test_strip_is_read_up_to_the_limit_and_refused_beyond(tmp_path):
    Image.new("RGB", (200, 1)).save(tmp_path / "a.png")
    assert read_image(str(tmp_path / "a.png")).shape == (1, 1, 200, 3)
    Image.new("RGB", (1, 201)).save(tmp_path / "b.png")
    assert "1 x 201 pixels, thinner than 1 : 200" in refusal(tmp_path / "b.png")


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
@pytest.mark.parametrize("share", [0.02, 0.6])
def test_truncated_picture_is_refused(tmp_path, ending, share):
    Image.fromarray(noise()).save(tmp_path / f"a.{ending}")
    data = (tmp_path / f"a.{ending}").read_bytes()
    (tmp_path / f"a.{ending}").write_bytes(data[: int(len(data) * share)])
    assert "cannot be read as a picture" in refusal(tmp_path / f"a.{ending}")


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_corrupt_picture_is_refused(tmp_path, ending):
    Image.fromarray(noise()).save(tmp_path / f"a.{ending}", lossless=True)
    data = bytearray((tmp_path / f"a.{ending}").read_bytes())
    data[30:400] = bytes(370)
    (tmp_path / f"a.{ending}").write_bytes(data)
    assert "cannot be read as a picture" in refusal(tmp_path / f"a.{ending}")


@pytest.mark.parametrize("data", [b"", b"a text\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_file_that_is_no_picture_is_refused(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    assert "give a whole PNG" in refusal(tmp_path / "a.png")


def test_folder_and_missing_file_are_refused(tmp_path):
    assert "is no regular file" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "a.png")


def test_too_large_picture_is_refused_with_size_and_limit(tmp_path):
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    assert "is 30 x 20 pixels, more than the limit of 500:" in refusal(tmp_path / "a.png", max_pixels=500)
    assert read_image(str(tmp_path / "a.png"), max_pixels=600).shape == (1, 20, 30, 3)


def test_large_baseline_jpeg_is_made_smaller_as_it_is_decoded(tmp_path):
    Image.new("RGB", (640, 320), (200, 100, 50)).save(tmp_path / "a.jpg")
    assert read_image(str(tmp_path / "a.jpg"), max_pixels=100 * 200).shape == (1, 80, 160, 3)


def test_large_progressive_jpeg_is_refused(tmp_path):
    Image.new("RGB", (640, 320)).save(tmp_path / "a.jpg", progressive=True)
    assert "limit" in refusal(tmp_path / "a.jpg", max_pixels=100 * 200)


def test_huge_picture_is_refused_in_bounded_memory(tmp_path):
    write_blank_png(tmp_path / "a.png", 30000, 30000)
    program = (
        "import resource, sys\n"
        "from ernie5.data.media import read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_image(sys.argv[1])\n"
        "except ValueError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path / "a.png")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    told, kilobytes = result.stdout.splitlines()
    assert "is 30000 x 30000 pixels" in told
    assert int(kilobytes) < 20_000


def test_pillows_own_limit_neither_warns_nor_stays_changed(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    write_blank_png(tmp_path / "a.png", 10000, 10000)  # Pillow would warn of it, and of twice as much refuse it
    assert "10000 x 10000" in refusal(tmp_path / "a.png")
    assert before == Image.MAX_IMAGE_PIXELS


def test_text_bomb_in_a_png_is_refused(tmp_path):
    stream = io.BytesIO()
    Image.new("L", (4, 4)).save(stream, format="PNG")
    data = stream.getvalue()
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 << 20)))
    (tmp_path / "a.png").write_bytes(data[:33] + bomb + data[33:])
    assert "cannot be read as a picture" in refusal(tmp_path / "a.png")


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert "is no regular file" in refusal(tmp_path / "pipe.png")


def test_readers_in_turns_leave_the_filters_of_warnings_as_they_were():
    """As threads do: the first one in is the first one out."""
    before = list(warnings.filters)
    first, second = (refusals("a", "picture", "give another") for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    warnings.warn("odd metadata", stacklevel=1)  # an error here, were it heard
    second.__exit__(None, None, None)
    assert warnings.filters == before
