"""A picture of a sound, for the report."""

import io
import wave
from pathlib import Path

import numpy as np
from PIL import Image

COLUMNS, ROWS = 240, 80  # pixels, whatever the sound's length and rate
WINDOW_SECONDS = 0.032
RANGE_DB = 70.0  # below the loudest; what is softer is black
_STOPS = np.array([[12, 14, 34], [72, 40, 130], [200, 70, 90], [250, 170, 80], [255, 250, 210]], np.float64)


def spectrogram(path: Path) -> bytes:
    """The PNG of a WAV file of 16 bits and one channel, as a run writes its samples: time to the right, 0 Hz below.

    Raises wave.Error or EOFError for another file.
    """
    with wave.open(str(path), "rb") as file:
        if (file.getsampwidth(), file.getnchannels()) != (2, 1):
            raise wave.Error("not 16 bits, one channel")
        rate, samples = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2")
    levels = decibels(samples / 32768, max(2, round(rate * WINDOW_SECONDS)))
    shares = Image.fromarray(np.clip(1 + levels / RANGE_DB, 0, 1).astype(np.float32)[::-1])
    heights = np.asarray(shares.resize((COLUMNS, ROWS), Image.Resampling.BOX))
    places = np.linspace(0, 1, len(_STOPS))
    colours = np.stack([np.interp(heights, places, stop) for stop in _STOPS.T], axis=-1)
    picture = io.BytesIO()
    Image.fromarray(np.rint(colours).astype(np.uint8)).save(picture, format="PNG")
    return picture.getvalue()


def decibels(samples: np.ndarray, window: int) -> np.ndarray:
    """[samples] -> [window / 2 + 1, COLUMNS]: the power of each frequency under windows evenly over the sound.

    Relative to the loudest, which has 0.
    """
    padded = np.pad(samples, [window // 2, window])
    starts = np.linspace(0, len(samples), COLUMNS, endpoint=False).astype(np.int64)
    framed = padded[starts[:, None] + np.arange(window)] * np.hanning(window)
    power = np.square(np.abs(np.fft.rfft(framed, axis=1))).T
    return 10 * np.log10(np.maximum(power, 1e-12) / max(power.max(), 1e-12))
