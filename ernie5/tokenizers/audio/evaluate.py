"""What a codec keeps of sounds it was not trained on, with one level of codes more each, and the use of its codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

import numpy as np
import paddle

from ernie5.config.audio_tokenizer import FRAMES_PER_SECOND, AudioTokenizerConfig
from ernie5.errors import UserError
from ernie5.tokenizers.audio.losses import MEASURE_WINDOW, mel_distance, scale_invariant_ratio
from ernie5.tokenizers.audio.recogniser import Recogniser, error_rate
from ernie5.tokenizers.audio.tokenizer import AudioTokenizer


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Means over sounds with the first, the first two, ... all levels of codes; silent sounds are left out."""

    si_sdr: tuple[float, ...]  # dB, scale-invariant signal to distortion (arXiv:1811.02508)
    mel_distance: tuple[float, ...]  # dB, mean absolute difference of mel bands
    code_use: tuple[float, ...]  # of each level: perplexity of the frequency of its codes over their number
    bits_per_second: tuple[float, ...]
    num_sounds: int


@paddle.no_grad()
def evaluate(tokenizer: AudioTokenizer, sounds: Sequence[np.ndarray]) -> Quality:
    """sounds: float32 [samples] each, in evaluation mode one by one, so that lengths may differ."""
    config = tokenizer.config
    counts = np.zeros([config.num_codebooks, config.codebook_size], np.int64)
    ratios, distances = [], []
    for sound in sounds:
        if not np.square(sound - sound.mean()).sum():
            continue
        sound = np.pad(sound, [0, max(0, MEASURE_WINDOW - len(sound))])
        target = paddle.to_tensor(sound[None])
        codes = tokenizer.encode(target)
        for level in range(config.num_codebooks):
            counts[level] += np.bincount(codes[0, :, level].numpy(), minlength=config.codebook_size)
        outputs = [tokenizer.decode(codes[..., : level + 1])[:, : len(sound)] for level in range(config.num_codebooks)]
        ratios.append([scale_invariant_ratio(output, target).item() for output in outputs])
        distances.append([mel_distance(output, target, config.sample_rate).item() for output in outputs])
    return Quality(
        si_sdr=tuple(np.mean(ratios, axis=0).tolist()),
        mel_distance=tuple(np.mean(distances, axis=0).tolist()),
        code_use=tuple(code_use(level) for level in counts),
        bits_per_second=bit_rates(config),
        num_sounds=len(ratios),
    )


@paddle.no_grad()
def error_rates(
    tokenizer: AudioTokenizer, recogniser: Recogniser, transcripts: Sequence[tuple[np.ndarray, str]]
) -> tuple[float, ...]:
    """The recogniser's errors over characters, of the sounds and of what the first, the first two, ... levels make.

    transcripts: float32 [samples] each with what is said, some of them not "". UserError for another sample rate.
    """
    rate, own = recogniser.config.network.sample_rate, tokenizer.config.sample_rate
    if rate != own:
        raise UserError(f"the recogniser hears sounds at {rate} Hz, the audio tokenizer is for {own} Hz: give another")
    heard: list[list[str]] = []
    for sound, _ in transcripts:
        codes = tokenizer.encode(paddle.to_tensor(sound[None]))
        outputs = (tokenizer.decode(codes[..., : n + 1]).numpy()[0, : len(sound)] for n in range(codes.shape[-1]))
        heard.append([recogniser.transcribe(output) for output in (sound, *outputs)])
    expected = [text for _, text in transcripts]
    return tuple(error_rate(found, expected) for found in zip(*heard, strict=True))


def code_use(counts: np.ndarray) -> float:
    """Perplexity of codes seen so often, [codes], over the number of codes: 1 where all are used alike."""
    shares = counts[counts > 0] / counts.sum()
    return float(2 ** -(shares * np.log2(shares)).sum() / len(counts))


def bit_rates(config: AudioTokenizerConfig) -> tuple[float, ...]:
    """Bits a second of the first, the first two, ... all levels, each code in a whole number of codes' logarithm."""
    return tuple(FRAMES_PER_SECOND * log2(config.codebook_size) * (n + 1) for n in range(config.num_codebooks))
