"""Pixels become files: PNG, GIF, MP4 and WebP; and pictures made larger or laid out on a sheet, to be looked at.

A picture is uint8 [height, width, 3], a film uint8 [frames, height, width, 3]. A file appears whole or not at all.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from ernie5.data.whole_files import replacing
from ernie5.errors import UserError

_GIF_FPS = 50  # delays are in hundredths of a second, and viewers slow a delay of one down
_X264 = ("libx264", {"crf": "16", "preset": "medium"})
_MPEG4 = ("mpeg4", {"qmin": "1", "qmax": "3"})  # in every build of FFmpeg


def save_media(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Writes a film, or a picture as a film of one frame, in the format that the name's ending says.

    Raises UserError as `check_name` does.
    """
    ending = check_name(path, len(frames), fps)
    if ending == ".png":
        save_png(path, frames[0])
    else:
        {".gif": save_gif, ".mp4": save_mp4, ".webp": save_webp}[ending](path, frames, fps)


def check_name(path: str | Path, num_frames: int, fps: float) -> str:
    """The ending of a name, in lower case. Raises UserError if it names no format for so many frames at this rate."""
    ending = Path(path).suffix.lower()
    if ending not in (".png", ".gif", ".mp4", ".webp"):
        found = f'the ending "{ending}"' if ending else "a name without an ending"
        raise UserError(f"{path}: {found} names no format: use .png, .gif, .mp4 or .webp")
    if ending == ".png" and num_frames != 1:
        raise UserError(f"{path}: a .png holds one picture, not {num_frames} frames: name a .gif, .mp4 or .webp")
    if num_frames > 1:
        _check_rate(path, fps)
    if ending == ".gif" and num_frames > 1 and fps > _GIF_FPS:
        raise UserError(
            f"{path}: a GIF shows at most {_GIF_FPS} frames a second, not {fps:g}: lower fps or name a .mp4"
        )
    return ending


def save_png(path: str | Path, frame: np.ndarray) -> None:
    """Writes the picture without loss."""
    with replacing(path) as temporary:
        Image.fromarray(frame).save(temporary, format="PNG")


def save_gif(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Writes an endless GIF of at most 256 colours a frame.

    Frame i begins at i / fps seconds, rounded to the format's hundredths, of which most viewers need two.
    """
    delays = 10 * np.diff(_times(path, len(frames), fps, ticks=100))
    pictures = [Image.fromarray(frame) for frame in frames]
    with replacing(path) as temporary:
        pictures[0].save(
            temporary, format="GIF", save_all=True, append_images=pictures[1:], duration=delays.tolist(), loop=0
        )


def save_webp(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Writes an endless WebP without loss. Frame i begins at i / fps seconds, rounded to thousandths.

    A film that stands still becomes a picture.
    """
    delays = np.diff(_times(path, len(frames), fps, ticks=1000))
    with replacing(path) as temporary:
        write_webp(temporary, frames, delays.tolist())


def write_webp(file: Path | BinaryIO, frames: np.ndarray, delays: list[int]) -> None:
    """The film as `save_webp` makes it; `delays` are milliseconds that each frame is shown."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(file, format="WEBP", save_all=True, append_images=others, duration=delays, loop=0, lossless=True)


def save_mp4(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Writes H.264, or MPEG-4 part 2 if PyAV was built without x264. An odd side gets its last row or column twice.

    Raises UserError if PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise UserError(
            f"{path}: .mp4 is written by PyAV, which is not installed: pip install 'ernie5[data]', or name a .gif"
        ) from None
    _check_rate(path, fps)
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    codec, options = _X264 if _X264[0] in av.codecs_available else _MPEG4
    with replacing(path) as temporary:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
            stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())


def enlarge(frames: np.ndarray, factor: int) -> np.ndarray:
    """Every pixel of [..., height, width, 3] as a square of `factor` x `factor`."""
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


def shrink(frames: np.ndarray, side: int) -> np.ndarray:
    """[frames, height, width, 3] with a longer side of `side` pixels."""
    factor = side / max(frames.shape[1:3])
    height, width = (max(1, round(n * factor)) for n in frames.shape[1:3])
    resized = (Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in frames)
    return np.stack([np.asarray(picture) for picture in resized])


def contact_sheet(pictures: Sequence[np.ndarray], columns: int, pad: int = 2) -> np.ndarray:
    """The pictures, uint8 [height, width, 3] each, in rows of `columns` on white, `pad` pixels around each of them.

    Cells are of the largest height and width; smaller pictures lie in the middle of theirs.
    """
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    sheet = np.full((rows * (height + pad) + pad, columns * (width + pad) + pad, 3), 255, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        top = pad + i // columns * (height + pad) + (height - picture.shape[0]) // 2
        left = pad + i % columns * (width + pad) + (width - picture.shape[1]) // 2
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def _times(path: str | Path, count: int, fps: float, ticks: int) -> np.ndarray:
    """int64 [count + 1]: the tick at which each frame begins and the last one ends; rounding does not add up."""
    _check_rate(path, fps)
    return np.rint(np.arange(count + 1) * (ticks / fps)).astype(np.int64)


def _check_rate(path: str | Path, fps: float) -> None:
    if not (math.isfinite(fps) and 0.1 <= fps <= 1000):
        raise UserError(f"{path}: {fps} frames a second cannot be written: give fps from 0.1 to 1000")
