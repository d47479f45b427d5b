"""Sound files become waveforms, float32 [samples] in [-1, 1], mono, at a wanted rate, and waveforms files.

libsndfile (soundfile) decodes, libsoxr (soxr) resamples, both block by block: memory is that of the result.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ernie5.data.films import MissingReader
from ernie5.data.sound_files import SoundFormat, check_whole, describe, sound_format, tells_length
from ernie5.data.whole_files import replacing
from ernie5.errors import UserError

if TYPE_CHECKING:
    from soundfile import SoundFile
    from soxr import ResampleStream

MIN_RATE, MAX_RATE = 1_000, 768_000  # samples a second that a file may have; outside, its header is damaged
BLOCK = 1 << 16  # samples decoded at a time, of all channels together
_MISSING = 0.05  # share of the declared length that may be missing at the end before a sound counts as cut off
_UNKNOWN = 1 << 62  # libsndfile's count of samples, or more, of a FLAC that does not say it; soundfile cannot read it
_ENDINGS = {".wav": "WAV", ".flac": "FLAC"}
_REMEDY = "give a whole WAV, FLAC, MP3 or OGG file"


def read_sound(path: str, sample_rate: int, max_seconds: float) -> np.ndarray:
    """The sound in a WAV, FLAC, MP3 or OGG file, float32 [samples] in [-1, 1] at `sample_rate`, at least one sample.

    The content says what a file is, whatever its ending. The channels' mean is taken; what is louder than full scale
    is clipped. Raises UserError for a sound longer than `max_seconds`, one without samples or with such that are not
    finite, a file that is no such sound, cut off or damaged, and MissingReader if the decoder is not installed.
    """
    blocks = list(sound_blocks(path, sample_rate, max_seconds))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def sound_blocks(path: str, sample_rate: int, max_seconds: float = float("inf")) -> Iterator[np.ndarray]:
    """`read_sound` in pieces of some seconds, for sounds of any length in little memory; none is empty."""
    try:
        import soundfile
        import soxr
    except ImportError:
        raise MissingReader(
            f"{path}: sounds are read by soundfile and soxr, which are not installed: pip install 'ernie5[data]'"
        ) from None
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path}: is no regular file: name a file on disk")  # of a pipe, reading would wait for ever
    try:
        with open(path, "rb", buffering=0) as file:
            kind = _check_content(path, file)
            # By its number, because libsndfile would let the ending overrule the content.
            with soundfile.SoundFile(file.fileno(), closefd=False) as sound:
                _check_header(path, sound, max_seconds)
                resampler = soxr.ResampleStream(sound.samplerate, sample_rate, 1, dtype="float32")
                yield from _resampled(_mono_blocks(path, sound, max_seconds), resampler)
            if kind == "MP3" and file.tell() < (1 - _MISSING) * os.path.getsize(path) and not tells_length(file):
                raise UserError(
                    f"{path}: lasts longer than can be told (MP3 of varying bit rate without a Xing tag): save it again"
                )
    except soundfile.LibsndfileError as error:
        raise UserError(
            f"{path}: begins as {kind} but cannot be decoded ({error.error_string.rstrip('.')}): copy it again, it is "
            "cut off or damaged"
        ) from None
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a decoder may raise anything of a broken file
        cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path}: cannot be read as a sound ({cause}): {_REMEDY}") from None


def write_sound(path: str | Path, samples: np.ndarray, sample_rate: int) -> None:
    """Writes float [samples] as WAV or FLAC of 16 bits, as the name's ending says; appears whole or not at all.

    What is louder than full scale is clipped. Raises UserError as `check_sound_name` does, for samples that are none
    or not finite, and if the encoder is not installed.
    """
    container = _ENDINGS[check_sound_name(path)]
    try:
        import soundfile
    except ImportError:
        raise UserError(
            f"{path}: sounds are written by soundfile, which is not installed: pip install 'ernie5[data]'"
        ) from None
    if samples.ndim != 1:
        raise ValueError(f"samples have shape {samples.shape}, not [samples]")
    if not len(samples):
        raise UserError(f"{path}: there is no sample to write: give a sound that lasts")
    if not np.isfinite(samples).all():
        raise UserError(f"{path}: the sound holds samples that are not finite: look for what went wrong before")
    levels = np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16)
    with replacing(path) as temporary, temporary.open("wb") as file:
        soundfile.write(file, levels, sample_rate, subtype="PCM_16", format=container)


def check_sound_name(path: str | Path) -> str:
    """The ending of a name, in lower case. Raises UserError if it names no format that can be written."""
    ending = Path(path).suffix.lower()
    if ending not in _ENDINGS:
        found = f'the ending "{ending}"' if ending else "a name without an ending"
        raise UserError(f"{path}: {found} names no format of sound: use .wav or .flac")
    return ending


def _check_content(path: str, file: BinaryIO) -> SoundFormat:
    """The file's format. Raises UserError if we read none such, or the file is shorter than by its own word."""
    kind = sound_format(file)
    if kind is None:
        raise UserError(f"{path}: is {describe(file)}: {_REMEDY}")
    cause = check_whole(file, kind)
    if cause:
        raise UserError(f"{path}: is cut off ({cause}): copy it again")
    file.seek(0)
    return kind


def _resampled(blocks: Iterator[np.ndarray], resampler: "ResampleStream") -> Iterator[np.ndarray]:
    """At least one sample in all, even of a sound shorter than half a sample of the new rate."""
    is_empty = True
    for block in blocks:
        block = resampler.resample_chunk(block)
        if len(block):
            is_empty = False
            yield np.clip(block, -1, 1)
    rest = resampler.resample_chunk(np.empty(0, np.float32), last=True)
    if is_empty and not len(rest):
        rest = np.zeros(1, np.float32)
    if len(rest):
        yield np.clip(rest, -1, 1)


def _check_header(path: str, sound: "SoundFile", max_seconds: float) -> None:
    if not MIN_RATE <= sound.samplerate <= MAX_RATE:
        raise UserError(
            f"{path}: has {sound.samplerate} samples a second, not {MIN_RATE} to {MAX_RATE}: copy it again, "
            "its header is damaged"
        )
    if sound.frames >= _UNKNOWN:
        raise UserError(f"{path}: does not say how long it is: save it again, as a file and not through a pipe")
    _check_seconds(path, sound.frames / sound.samplerate, max_seconds)


def _check_seconds(path: str, seconds: float, max_seconds: float) -> None:
    if seconds > max_seconds:
        raise UserError(
            f"{path}: lasts {seconds:.2f} s or more, longer than the limit of {max_seconds:g} s: cut it into pieces"
        )


def _mono_blocks(path: str, sound: "SoundFile", max_seconds: float) -> Iterator[np.ndarray]:
    """The channels' mean as stored, float32 [samples] at the file's own rate."""
    count = 0
    block = np.empty((max(BLOCK // sound.channels, 1), sound.channels), np.float32)
    while len(samples := sound.read(out=block)):
        if not np.isfinite(samples).all():
            raise UserError(f"{path}: holds samples that are not finite: make it again, or save it as 16 bits")
        count += len(samples)
        _check_seconds(path, count / sound.samplerate, max_seconds)
        yield samples.mean(axis=1, dtype=np.float32)
    if not count:
        raise UserError(f"{path}: holds no sample: give a sound that lasts")
    if count < sound.frames * (1 - _MISSING):
        declared = sound.frames / sound.samplerate
        raise UserError(f"{path}: ends after {count / sound.samplerate:.2f} of {declared:.2f} s: copy it again")
