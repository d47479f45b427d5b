"""Sounds of every format, rate and number of channels become one waveform; every bad file is refused in a sentence."""

import os
import struct
import sys
import tracemalloc

import numpy as np
import pytest

from ernie5.data.sounds import read_sound, sound_blocks, write_sound
from ernie5.errors import UserError

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")
RATE, SECONDS = 24_000, 0.4
LENGTH = 9_600  # of both together
ENDINGS = ("wav", "flac", "mp3", "ogg")


def tone(rate, seconds=SECONDS, hertz=440.0):
    """A sine of half the full scale, float64 [samples]."""
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def write_tone(path, rate=RATE, seconds=SECONDS, **options):
    soundfile.write(path, tone(rate, seconds), rate, **options)
    return path


def refusal(path, max_seconds=30.0) -> str:
    """What the user is told."""
    with pytest.raises(UserError) as caught:
        read_sound(str(path), RATE, max_seconds)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text


def check_tone(samples, rate, seconds=SECONDS, tolerance=0.01):
    """That it is `tone`; the ends aside, where the resampler's and the codecs' filters see what is not there."""
    assert samples.dtype == np.float32 and samples.shape == (round(rate * seconds),)
    inside = slice(rate // 20, -rate // 20)
    np.testing.assert_allclose(samples[inside], tone(rate, seconds)[inside], atol=tolerance)


@pytest.mark.parametrize("ending", ENDINGS)
def test_sound_is_what_was_stored(tmp_path, ending):
    path = write_tone(tmp_path / f"a.{ending}")
    check_tone(read_sound(str(path), RATE, 1.0), RATE, tolerance=0.03)


def test_opus_in_ogg_is_read(tmp_path):
    path = write_tone(tmp_path / "a.ogg", format="OGG", subtype="OPUS")
    check_tone(read_sound(str(path), RATE, 1.0), RATE, tolerance=0.1)  # its encoder is a sample or two late


@pytest.mark.parametrize("target", [8_000, RATE])
@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 88_200, 96_000])
def test_sound_is_resampled(tmp_path, rate, target):
    path = write_tone(tmp_path / "a.wav", rate)
    check_tone(read_sound(str(path), target, 1.0), target)


def test_what_the_new_rate_cannot_hold_is_filtered_out(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(48_000, hertz=6_000), 48_000)
    samples = read_sound(str(tmp_path / "a.wav"), 8_000, 1.0)
    assert np.abs(samples[400:-400]).max() < 1e-3


def test_resampling_in_blocks_is_resampling_the_whole(tmp_path):
    import soxr

    noise = 0.1 * np.random.default_rng(0).standard_normal(150_001)
    soundfile.write(tmp_path / "a.wav", noise, 44_100, subtype="FLOAT")
    samples = read_sound(str(tmp_path / "a.wav"), RATE, 5.0)
    np.testing.assert_array_equal(samples, soxr.resample(noise.astype(np.float32), 44_100, RATE))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_every_width_of_wav_is_read(tmp_path, subtype):
    path = write_tone(tmp_path / "a.wav", subtype=subtype)
    check_tone(read_sound(str(path), RATE, 1.0), RATE, tolerance=0.02)


@pytest.mark.parametrize("ending", ["wav", "flac"])
@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_mixed_to_their_mean(tmp_path, ending, channels):
    gains = np.arange(1, channels + 1) / channels
    soundfile.write(tmp_path / f"a.{ending}", tone(RATE)[:, None] * gains, RATE)
    samples = read_sound(str(tmp_path / f"a.{ending}"), RATE, 1.0)
    np.testing.assert_allclose(samples, tone(RATE) * gains.mean(), atol=1e-4)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", ["a.txt", "a.raw", "a.wav", "a.mp3", "a"])
def test_content_says_what_a_file_is(tmp_path, ending, name):
    path = write_tone(tmp_path / f"b.{ending}").rename(tmp_path / name)
    assert len(read_sound(str(path), RATE, 1.0)) == LENGTH


def test_silence_is_silence(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    samples = read_sound(str(tmp_path / "a.wav"), 8_000, 1.0)
    np.testing.assert_array_equal(samples, np.zeros(8_000, np.float32))


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_what_is_too_loud_is_clipped(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", np.sign(tone(rate)) * 1.5, rate, subtype="FLOAT")
    samples = read_sound(str(tmp_path / "a.wav"), RATE, 1.0)
    assert samples.max() == 1 and samples.min() == -1


@pytest.mark.parametrize("rate, target, length", [(8_000, 8_000, 8), (96_000, 8_000, 8), (RATE, RATE, 24)])
def test_clip_of_a_millisecond_is_read(tmp_path, rate, target, length):
    soundfile.write(tmp_path / "a.wav", np.full(rate // 1000, 0.5), rate)
    samples = read_sound(str(tmp_path / "a.wav"), target, 1.0)
    assert samples.shape == (length,) and np.isfinite(samples).all()


def test_single_sample_is_never_lost(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(1, 0.5), 96_000)
    assert read_sound(str(tmp_path / "a.wav"), 8_000, 1.0).shape == (1,)


@pytest.mark.parametrize("ending", ENDINGS)
def test_ten_minutes_are_read_in_bounded_memory(tmp_path, ending):
    path, rate = tmp_path / f"a.{ending}", 8_000
    with soundfile.SoundFile(path, "w", rate, 1) as file:
        for _ in range(600):
            file.write(tone(rate, 1.0))
    count, largest = 0, 0
    tracemalloc.start()
    for block in sound_blocks(str(path), rate):
        count, largest = count + len(block), max(largest, len(block))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 600 * rate
    assert largest <= 10 * rate and peak < 2_000_000  # the whole is 19 MB


def test_longer_than_the_limit_is_refused(tmp_path):
    path = write_tone(tmp_path / "a.flac", seconds=2.0)
    assert "lasts 2.00 s or more, longer than the limit of 1.5 s" in refusal(path, 1.5)
    assert len(read_sound(str(path), RATE, 2.0)) == 2 * RATE


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.03, 0.5, 0.97])
def test_truncated_sound_is_refused(tmp_path, capfd, ending, share):
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(2 * RATE), RATE)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    text = refusal(path)
    assert "cut off" in text if share else "is empty" in text
    assert capfd.readouterr().err == ""  # decoders write there


def test_mp3_that_does_not_tell_its_length_is_not_cut_short(tmp_path):
    noise = np.random.default_rng(0).standard_normal(4 * RATE) * np.repeat([0.0, 0.3], 2 * RATE)
    soundfile.write(tmp_path / "a.mp3", noise, RATE)
    data = (tmp_path / "a.mp3").read_bytes()
    place = data[:64].find(b"Xing")
    assert place > 0
    (tmp_path / "a.mp3").write_bytes(data[:place] + bytes(4) + data[place + 4 :])
    assert "varying bit rate" in refusal(tmp_path / "a.mp3")


def test_mp3_behind_an_id3_tag_is_read(tmp_path):
    data = write_tone(tmp_path / "a.mp3").read_bytes()
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 2, 0]) + bytes(256)
    (tmp_path / "a.mp3").write_bytes(tag + data)
    assert len(read_sound(str(tmp_path / "a.mp3"), RATE, 1.0)) == LENGTH
    (tmp_path / "a.mp3").write_bytes(tag + data[:-50])
    assert "cut off" in refusal(tmp_path / "a.mp3")


def test_wav_whose_writer_could_not_go_back_is_read(tmp_path):
    data = bytearray(write_tone(tmp_path / "a.wav").read_bytes())
    assert data[36:40] == b"data"
    data[40:44] = struct.pack("<I", 0xFFFFFFFF)
    (tmp_path / "a.wav").write_bytes(data)
    check_tone(read_sound(str(tmp_path / "a.wav"), RATE, 1.0), RATE)


def test_flac_that_does_not_tell_its_length_is_refused(tmp_path):
    data = bytearray(write_tone(tmp_path / "a.flac").read_bytes())
    data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])
    (tmp_path / "a.flac").write_bytes(data)
    assert "does not say how long" in refusal(tmp_path / "a.flac")


def test_sound_without_samples_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), RATE)
    assert "no sample" in refusal(tmp_path / "a.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path, value):
    samples = tone(RATE, 4.0)
    samples[-5] = value
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    assert "not finite" in refusal(tmp_path / "a.wav")


@pytest.mark.parametrize("rate", [1, 4_000_000])
def test_rate_that_cannot_be_is_refused(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", np.zeros(10), rate)
    assert f"has {rate} samples a second" in refusal(tmp_path / "a.wav")


@pytest.mark.parametrize(
    "data, told",
    [
        (b"", "is empty"),
        (bytes(1000), "a file of zeros"),
        (b"a text\n" * 20, "a text"),
        ("Ton für Ton, ä".encode() * 20, "a text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "a PNG picture"),
        (b"\xff\xd8\xff\xe0" + bytes(99), "a JPEG picture"),
        (b"\0\0\0\x20ftypM4A " + bytes(99), "an MP4 or M4A file"),
        (b"FORM\0\0\0\0AIFF" + bytes(99), "an AIFF sound"),
        (b"RIFF\0\0\0\0AVI " + bytes(99), "an AVI film"),
        (b"\xff\xf1\x50\x80" + bytes(range(99)), "an AAC sound"),
        (b"\x9c\x01\xfe" * 40, "no sound that is known"),
    ],
)
def test_file_that_is_no_sound_is_told_by_its_kind(tmp_path, data, told):
    (tmp_path / "a.wav").write_bytes(data)
    assert told in refusal(tmp_path / "a.wav")


def test_damaged_sound_is_refused(tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE)
    soundfile.write(tmp_path / "a.flac", noise, RATE)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    (tmp_path / "a.flac").write_bytes(data)
    assert "damaged" in refusal(tmp_path / "a.flac")


def test_folder_pipe_and_missing_file_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    assert "no regular file" in refusal(tmp_path)
    assert "no regular file" in refusal(tmp_path / "pipe.wav")
    assert "No such file" in refusal(tmp_path / "a.wav")
    assert "null byte" in refusal(tmp_path / "a\0.wav")


@pytest.mark.parametrize("module", ["soundfile", "soxr"])
def test_missing_decoder_is_told(tmp_path, monkeypatch, module):
    path = write_tone(tmp_path / "a.wav")
    monkeypatch.setitem(sys.modules, module, None)
    assert "pip install 'ernie5[data]'" in refusal(path)


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_written_sound_comes_back(tmp_path, ending):
    path = tmp_path / "new folder" / f"a.{ending}"
    write_sound(path, tone(8_000).astype(np.float32), 8_000)
    assert soundfile.info(path).samplerate == 8_000 and soundfile.info(path).subtype == "PCM_16"
    np.testing.assert_allclose(read_sound(str(path), 8_000, 1.0), tone(8_000), atol=1e-4)
    assert os.listdir(path.parent) == [path.name]


def test_written_sound_is_clipped(tmp_path):
    write_sound(tmp_path / "a.wav", np.array([2.0, -2.0, 0.0]), 8_000)
    np.testing.assert_allclose(read_sound(str(tmp_path / "a.wav"), 8_000, 1.0), [1, -1, 0], atol=1e-4)


@pytest.mark.parametrize("name", ["a.mp3", "a", "a.png"])
def test_ending_that_is_not_written_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="use .wav or .flac"):
        write_sound(tmp_path / name, tone(8_000), 8_000)


@pytest.mark.parametrize("samples, told", [([], "no sample"), ([0.0, np.nan], "not finite")])
def test_nothing_and_no_number_are_not_written(tmp_path, samples, told):
    with pytest.raises(UserError, match=told):
        write_sound(tmp_path / "a.wav", np.array(samples), 8_000)
    assert not os.listdir(tmp_path)


def test_failed_writing_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(b"old")

    def fail(*arguments, **options):
        raise OSError(5, "broken disk")

    monkeypatch.setattr(soundfile, "write", fail)
    with pytest.raises(UserError, match="broken disk"):
        write_sound(tmp_path / "a.wav", tone(8_000), 8_000)
    assert (tmp_path / "a.wav").read_bytes() == b"old" and os.listdir(tmp_path) == ["a.wav"]
