"""The picture of a sound."""

import io
import wave

import numpy as np
import pytest
from PIL import Image

from ernie5.data.sounds import write_sound
from ernie5.train.spectrogram import COLUMNS, ROWS, decibels, spectrogram

RATE = 8000


def picture(folder, samples, rate=RATE):
    write_sound(folder / "a.wav", samples, rate)
    with Image.open(io.BytesIO(spectrogram(folder / "a.wav"))) as image:
        assert image.size == (COLUMNS, ROWS) and image.format == "PNG"
        return np.asarray(image).astype(int).sum(-1)


@pytest.mark.parametrize("rate", [8000, 24000])
def test_tone_is_a_line_at_its_height_while_it_sounds(tmp_path, rate):
    time = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * rate / 8 * time) * (time > 0.5)  # a quarter of the highest frequency
    brightness = picture(tmp_path, tone, rate)
    sounding = brightness[:, COLUMNS // 2 + 10 :]
    assert abs(int(sounding.mean(1).argmax()) - ROWS * 3 // 4) <= 1  # 0 Hz is below
    assert sounding.max() > 500 > 200 > brightness[:, : COLUMNS // 2 - 10].max()


def test_levels_are_decibels_below_the_loudest():
    time = np.arange(RATE) / RATE
    tones = np.sin(2 * np.pi * 1000 * time) + 0.01 * np.sin(2 * np.pi * 3000 * time)
    levels = decibels(tones, 256)[:, COLUMNS // 2]
    assert levels[32] == pytest.approx(0, abs=0.1) and levels[96] == pytest.approx(-40, abs=0.5)


@pytest.mark.parametrize("samples", [np.zeros(3), np.zeros(RATE)])
def test_silence_is_a_picture_too(tmp_path, samples):
    assert picture(tmp_path, samples).shape == (ROWS, COLUMNS)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises((wave.Error, EOFError)):
        spectrogram(tmp_path / "a.wav")
    with wave.open(str(tmp_path / "b.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(bytes(400))
    with pytest.raises(wave.Error, match="not 16 bits, one channel"):
        spectrogram(tmp_path / "b.wav")
