"""Picture files, still or moving, become RGB pixels by Pillow; the size is checked before memory is taken for it."""

import math
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps

from ernie5.errors import UserError

MAX_PIXELS = 1 << 25  # of a picture or frame as it is stored: 100 MB as RGB
MAX_ASPECT = 200  # longer side by shorter one; a longer strip would be squeezed into one cell of pixels
# Not all that Pillow knows: some of its readers start other programs (EPS).
STILL = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
MOVING = ("PNG", "WEBP", "GIF")
_SHORTEST_DELAY, _DEFAULT_DELAY = 0.010, 0.1  # seconds: browsers take a delay of up to the first for the second
_opening = threading.Lock()


class _Quiet:
    """No warnings while any thread is inside: the filters belong to the process, so the last one out restores them."""

    def __init__(self):
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.__exit__(None, None, None)


_quiet = _Quiet()


def read_image(path: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The picture in a file, uint8 [1, height, width, 3]; of a moving one the first frame.

    Turned as its EXIF data say; transparency lies on white, as documents are drawn; 16-bit grey keeps its upper bits.
    A baseline JPEG of more than `max_pixels` is made smaller (2, 4 or 8 times) as it is decoded. Raises UserError for
    any other picture of that size, one thinner than 1 : MAX_ASPECT, and a file that is no picture or is damaged.
    """
    with refusals(path, "picture", "give a whole PNG, JPEG, WebP, GIF, BMP or TIFF file"):
        with open_picture(path, STILL) as image:
            _shrink_while_decoding(image, max_pixels)
            check_size(path, image.height, image.width, max_pixels)
            return np.asarray(to_rgb(ImageOps.exif_transpose(image)))[None].copy()


@contextmanager
def refusals(path: str, kind: str, remedy: str) -> Iterator[None]:
    """Turns whatever a decoder raises of a broken file, and it may raise anything, into a UserError with its cause."""
    try:
        with _quiet:  # decoders warn of odd metadata
            yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path}: cannot be read as a {kind} ({cause}): {remedy}") from None


def open_picture(path: str, formats: tuple[str, ...]) -> Image.Image:
    """Reads the header alone. Raises PIL.UnidentifiedImageError if the file is none of these formats.

    Raises UserError for a folder, a pipe or a device.
    """
    # Pillow's own limit would refuse or warn before the size is known; ours comes right after, and names the file.
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path}: is no regular file: name a file on disk")  # of a pipe, reading would wait for ever
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def check_size(path: str, height: int, width: int, max_pixels: int) -> None:
    """Raises UserError for a picture or frame that is too large or too thin."""
    if height < 1 or width < 1:
        raise UserError(f"{path}: is {width} x {height} pixels: give a picture that shows something")
    if height * width > max_pixels:
        raise UserError(
            f"{path}: is {width} x {height} pixels, more than the limit of {max_pixels:,}: make it smaller first"
        )
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UserError(f"{path}: is {width} x {height} pixels, thinner than 1 : {MAX_ASPECT}: cut it into pieces")


def shrunk(height: int, width: int, max_pixels: int) -> tuple[int, int]:
    """The size (height, width) of the same shape that has at most `max_pixels`."""
    scale = min(math.sqrt(max_pixels / (height * width)), 1.0)
    return max(int(height * scale), 1), max(int(width * scale), 1)


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB, whatever it was stored as. Raises ValueError if its values have no agreed range."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(np.asarray(image)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    backed = Image.new("RGB", image.size, "white")
    backed.paste(image, mask=image.getchannel("A"))
    return backed


def moving_frames(path: str, image: Image.Image, max_pixels: int) -> Iterator[tuple[float, Image.Image]]:
    """The frames of a moving picture, each with the seconds at which it goes. It is valid until the next is asked for.

    Raises UserError for a frame that is too large.
    """
    count = getattr(image, "n_frames", 1)
    first = int(bool(image.info.get("default_image")))  # of a PNG: what is shown where nothing can move
    end = 0.0
    for number in range(first, count):
        image.seek(number)
        check_size(path, image.height, image.width, max_pixels)
        image.load()  # WebP knows the delay only now
        delay = image.info.get("duration", 0) / 1000
        if delay <= _SHORTEST_DELAY:
            delay = _DEFAULT_DELAY if count - first > 1 else 0.0
        end += delay
        yield end, image


def _shrink_while_decoding(image: Image.Image, max_pixels: int) -> None:
    """Sets a JPEG's decoder to 1/2, 1/4 or 1/8 if that brings it under the limit.

    Not a progressive one: its decoder holds the coefficients of the whole picture, however small the result.
    """
    if image.format not in ("JPEG", "MPO") or image.info.get("progressive"):
        return
    width, height = image.size
    divisor = next((n for n in (1, 2, 4, 8) if -(-width // n) * -(-height // n) <= max_pixels), 1)
    image.draft(None, (max(width // divisor, 1), max(height // divisor, 1)))


def _from_16_bit(values: np.ndarray) -> Image.Image:
    if values.min() < 0 or values.max() > 65535:  # mode I is Pillow's carrier of 16 bits, but a TIFF may hold 32
        raise ValueError(f"pixel values from {values.min()} to {values.max()} are neither of 8 nor of 16 bits")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
