"""What people look at and listen to: spectrograms and WAV files of sounds and what the codec makes of them."""

import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
from PIL import Image

from ernie5.tokenizers.audio.losses import FLOOR, magnitudes, mel_bank
from ernie5.tokenizers.audio.tokenizer import AudioTokenizer

BANDS, ZOOM = 64, 2  # of a spectrogram; pixels of a band
COLUMNS_PER_SECOND = 125
QUIETEST, LOUDEST = np.log(FLOOR), 0.0  # of the logarithms of magnitudes that black and white stand for
INK = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]])  # from quiet to loud
SHOWN = 8  # sounds of a sheet
GAP, BORDER = 4, 12  # pixels between a sound and its reconstruction, and between sounds
PAPER = 255


def choose(sounds: Sequence[np.ndarray], number: int) -> list[np.ndarray]:
    """At most so many, evenly spread."""
    every = max(1, len(sounds) // number)
    return list(sounds[::every][:number])


@paddle.no_grad()
def reconstruct(tokenizer: AudioTokenizer, sound: np.ndarray) -> np.ndarray:
    """float32 [samples] by way of all levels of codes."""
    return tokenizer.decode(tokenizer.encode(paddle.to_tensor(sound[None]))).numpy()[0, : len(sound)]


def save_sheet(tokenizer: AudioTokenizer, sounds: Sequence[np.ndarray], path: Path) -> None:
    """A PNG of mel spectrograms: each sound, below it what the codec makes of it. float32 [samples] each."""
    rate = tokenizer.config.sample_rate
    pictures = [
        [spectrogram(sound, rate), np.full([GAP, 1, 3], PAPER), spectrogram(reconstruct(tokenizer, sound), rate)]
        for sound in sounds
    ]
    border = np.full([BORDER, 1, 3], PAPER)
    rows = [row for picture in pictures for row in (*picture, border)][:-1]
    width = max(row.shape[1] for row in rows)
    filled = [np.pad(row, [(0, 0), (0, width - row.shape[1]), (0, 0)], constant_values=PAPER) for row in rows]
    Image.fromarray(np.concatenate(filled).astype(np.uint8)).save(path)


def spectrogram(sound: np.ndarray, sample_rate: int) -> np.ndarray:
    """float32 [samples] -> [BANDS * ZOOM, columns, 3] from 0 to 255, high frequencies on top."""
    window = 4 * (sample_rate // COLUMNS_PER_SECOND)
    padded = np.pad(sound, [0, max(0, window - len(sound))])
    bands = mel_bank(sample_rate, window, BANDS).matmul(magnitudes(paddle.to_tensor(padded[None]), window)[0])
    height = (np.log(bands.numpy() + FLOOR) - QUIETEST) / (LOUDEST - QUIETEST)
    colours = [np.interp(height, np.linspace(0, 1, len(INK)), channel) for channel in INK.T]
    return np.stack(colours, axis=-1)[::-1].repeat(ZOOM, axis=0)


def save_wavs(tokenizer: AudioTokenizer, sounds: Sequence[np.ndarray], folder: Path) -> None:
    """`0_original.wav`, `0_reconstruction.wav`, ... of 16 bits."""
    folder.mkdir(exist_ok=True)
    for number, sound in enumerate(sounds):
        for name, samples in (("original", sound), ("reconstruction", reconstruct(tokenizer, sound))):
            with wave.open(str(folder / f"{number}_{name}.wav"), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(tokenizer.config.sample_rate)
                file.writeframes(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
