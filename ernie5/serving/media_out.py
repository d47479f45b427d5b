"""Drawings and sounds as bytes for an answer."""

import base64
import io
import wave

import numpy as np
from PIL import Image

from ernie5.inference.media_files import write_webp
from ernie5.inference.request import Sound


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def drawing_bytes(frames: np.ndarray, fps: float) -> tuple[bytes, str]:
    """(file, MIME type) of uint8 [frames, height, width, 3]: PNG of a picture, animated WebP of a film; no loss."""
    file = io.BytesIO()
    if len(frames) == 1:
        Image.fromarray(frames[0]).save(file, format="PNG")
        return file.getvalue(), "image/png"
    times = np.rint(np.arange(len(frames) + 1) * (1000 / fps)).astype(int)  # rounding does not add up
    write_webp(file, frames, np.diff(times).tolist())
    return file.getvalue(), "image/webp"


def drawing_part(frames: np.ndarray, fps: float) -> dict:
    """As a part of a message: a data URL."""
    data, mime = drawing_bytes(frames, fps)
    kind = "image_url" if len(frames) == 1 else "video_url"
    return {"type": kind, kind: {"url": f"data:{mime};base64,{base64_of(data)}"}}


def sound_bytes(sound: Sound, form: str) -> bytes:
    """A WAV file of 16 bits, or (`pcm`, `pcm16`) its little-endian samples alone."""
    samples = np.nan_to_num(np.clip(sound.samples, -1, 1))
    levels = np.rint(samples * 32767).astype("<i2").tobytes()
    if form != "wav":
        return levels
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sound.sample_rate)
        writer.writeframes(levels)
    return file.getvalue()


def joined(sounds: list[Sound]) -> Sound:
    """One behind the other; they are of one model and so of one rate."""
    return Sound(np.concatenate([sound.samples for sound in sounds]), sounds[0].sample_rate)


def printable(text: str) -> str:
    """Without lone surrogates, which Python strings can hold and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
