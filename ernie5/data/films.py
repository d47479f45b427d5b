"""Film files become frames sampled by time: PyAV decodes films, Pillow moving pictures (GIF, WebP, PNG)."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from ernie5.data.pictures import (
    MAX_PIXELS,
    MOVING,
    check_size,
    moving_frames,
    open_picture,
    refusals,
    shrunk,
    to_rgb,
)
from ernie5.errors import UserError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

FRAME_PIXELS = 1 << 20  # of a frame that is kept: 3 MB
# Demuxers that read the file they are given and nothing else; a playlist (m3u8, concat) would open others by name.
_CONTAINERS = "avi,flv,matroska,mov,mpeg,mpegts,ogg,webm"
_ROUNDING = 0.005  # seconds that a stored time may be off: half a tick of GIF, the coarsest
_MISSING = 0.05  # share of the declared length that may be missing at the end before a film counts as cut off


class _Shown(NamedTuple):
    """A frame of the film as it is stored."""

    end: float  # seconds from the film's beginning at which the next takes its place, less half a tick of its clock
    pixels: Callable[[], np.ndarray]  # uint8 [height, width, 3]


class MissingReader(UserError):
    """The library that reads a file is not installed: nothing is wrong with the file."""


def read_video(path: str, fps: float, max_frames: int, max_pixels: int = FRAME_PIXELS) -> np.ndarray:
    """The film in a file, uint8 [frames, height, width, 3]; frame i is what is shown at i / fps seconds.

    Times are those stored with the frames, so the film's own rate may vary. A frame of more than `max_pixels` is made
    smaller as it comes; only sampled frames are kept. Turned as its metadata say. Raises UserError for a film with more
    than `max_frames` sampled frames, without any, with frames too large to decode, cut off or damaged, and if the
    decoder is not installed.
    """
    with refusals(path, "film", "give a whole MP4, WebM, MKV, AVI, GIF or animated WebP or PNG file"):
        try:
            picture = open_picture(path, MOVING)
        except UnidentifiedImageError:
            return _sample(path, _film(path, max_pixels), fps, max_frames)
        with picture:
            return _sample(path, _moving_picture(path, picture, max_pixels), fps, max_frames)


def _sample(path: str, shown: Iterable[_Shown], fps: float, max_frames: int) -> np.ndarray:
    frames: list[np.ndarray] = []
    for end, pixels in shown:
        due = max(math.ceil(end * fps), 1)  # frames asked for before this one goes; the first always is
        if due > max_frames:
            raise UserError(
                f"{path}: has more than {max_frames} frames at {fps:g} a second (it lasts beyond "
                f"{max_frames / fps:g} s): look at fewer a second (fps), cut the film, or raise model.vision.max_frames"
            )
        if due > len(frames):
            frames += [pixels()] * (due - len(frames))
    if not frames:
        raise UserError(f"{path}: holds no frame: give a film that shows something")
    return np.stack(frames)


def _moving_picture(path: str, picture: Image.Image, max_pixels: int) -> Iterator[_Shown]:
    height, width = shrunk(picture.height, picture.width, max_pixels)
    for end, frame in moving_frames(path, picture, MAX_PIXELS):
        yield _Shown(end - _ROUNDING, partial(_pixels_of_picture, frame, height, width))


def _pixels_of_picture(frame: Image.Image, height: int, width: int) -> np.ndarray:
    frame = to_rgb(frame)
    return np.array(frame if frame.size == (width, height) else frame.resize((width, height), Image.Resampling.BICUBIC))


def _film(path: str, max_pixels: int) -> Iterator[_Shown]:
    """Decodes one frame at a time. Its clock starts with the first frame."""
    try:
        import av
    except ImportError:
        raise MissingReader(
            f"{path}: films are read by PyAV, which is not installed: pip install 'ernie5[data]'"
        ) from None
    # A file object: FFmpeg would take a name such as `concat:a|b` apart.
    with open(path, "rb") as file, av.open(file, options={"format_whitelist": _CONTAINERS}) as container:
        video = container.streams.best("video")
        if video is None or video.codec_context is None:
            raise UserError(f"{path}: has no stream of pictures that can be decoded: give a film")
        if not (video.codec_context.height and video.codec_context.width):
            raise UserError(f"{path}: says nothing of its size: copy it again, it is cut off or damaged")
        check_size(path, video.codec_context.height, video.codec_context.width, MAX_PIXELS)
        height, width = shrunk(video.codec_context.height, video.codec_context.width, max_pixels)
        rounding = min(float(video.time_base) / 2, _ROUNDING)
        begin, end = None, 0.0
        for start, end, frame in _timed(_decode(path, container, video), video):
            begin = start if begin is None else begin
            yield _Shown(end - begin - rounding, partial(_pixels_of_frame, frame, height, width))
        declared = _declared_seconds(container, video)
        if end < declared * (1 - _MISSING):
            raise UserError(f"{path}: ends after {end:.2f} of {declared:.2f} s: copy it again, it is cut off")


def _decode(path: str, container: "InputContainer", video: "VideoStream") -> Iterator["VideoFrame"]:
    video.codec_context.thread_count = 1  # films are read by worker processes, one a core
    for packet in container.demux(video):
        for frame in packet.decode():
            if packet.is_corrupt or frame.is_corrupt:
                raise UserError(f"{path}: is damaged or cut off at {float(frame.time or 0):.2f} s: copy it again")
            check_size(path, frame.height, frame.width, MAX_PIXELS)
            yield frame


def _timed(frames: Iterator["VideoFrame"], video: "VideoStream") -> Iterator[tuple[float, float, "VideoFrame"]]:
    """Each frame with the seconds at which it comes and goes: when the next one comes, or after its own length."""
    held, start = None, 0.0
    for frame in frames:
        end = start + _length(held, video) if held is not None else 0.0  # of one that is stored without a time
        end = frame.time if frame.time is not None else end
        if held is not None:
            yield start, end, held
        held, start = frame, end
    if held is not None:
        yield start, start + _length(held, video), held


def _length(frame: "VideoFrame", video: "VideoStream") -> float:
    """Seconds that a frame says it is shown, or that frames of this film are on average."""
    if frame.duration:
        return float(frame.duration * (frame.time_base or video.time_base))
    return 1 / float(video.average_rate) if video.average_rate else 0.0


def _declared_seconds(container: "InputContainer", video: "VideoStream") -> float:
    """At which second the file says the pictures end; 0 if it does not."""
    if video.duration:
        return float(video.duration * video.time_base)
    # The container's length, in microseconds, may be that of its sound.
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def _pixels_of_frame(frame: "VideoFrame", height: int, width: int) -> np.ndarray:
    pixels = frame.reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC").to_ndarray()
    return np.rot90(pixels, frame.rotation // 90)
