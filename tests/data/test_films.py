"""Films are sampled by time, whatever their own rate, and every bad file is refused in one sentence."""

import sys
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from ernie5.data.media import read_video
from ernie5.errors import UserError

av = pytest.importorskip("av")
CODECS = {"mp4": "mpeg4", "mkv": "mpeg4", "avi": "mpeg4", "webm": "libvpx"}
LEVELS = (20, 60, 100, 140, 180, 220)  # the grey of each frame, far enough apart to survive a codec


def write_film(path, levels=LEVELS, rate=10, times=None, size=(32, 48), faststart=False, noisy=False):
    """A film whose frame i is of one grey, at times[i] milliseconds if they are given."""
    options = {"movflags": "faststart"} if faststart else {}
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(CODECS[path.suffix[1:]], rate=rate)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *size, "yuv420p", 4_000_000
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, level in enumerate(levels):
            pixels = rng.integers(0, 256, (*size, 3)) if noisy else np.full((*size, 3), level)
            frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_moving(path, delays, levels=LEVELS, **options):
    """A moving picture whose frame i is of one grey and stays delays[i] milliseconds."""
    frames = [Image.new("RGB", (12, 8), (level,) * 3) for level in levels[: len(delays)]]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=delays, **options)
    return path


def shown(path, fps, max_frames=64):
    """Which of LEVELS each sampled frame has."""
    frames = read_video(str(path), fps, max_frames).astype(int)
    assert np.abs(frames - frames[:, :1, :1, :1]).max() <= 4
    return np.abs(frames[:, 0, 0, 0, None] - np.array(LEVELS)).argmin(axis=1).tolist()


def refusal(path, fps=10, max_frames=64) -> str:
    """What the user is told."""
    with pytest.raises(UserError) as caught:
        read_video(str(path), fps, max_frames)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text


def expected(begins, end, fps):
    """Of each sampled time the last frame that has begun by then; times in milliseconds."""
    times = np.arange(0, end - 1e-6, 1000 / fps)
    return [max(i for i, begin in enumerate(begins) if begin <= time + 1e-6) for time in times]


@pytest.mark.parametrize("ending", sorted(CODECS))
@pytest.mark.parametrize("fps", [10, 5, 4, 20, 1])
def test_film_is_sampled_by_time(tmp_path, ending, fps):
    path = write_film(tmp_path / f"a.{ending}")
    assert shown(path, fps) == expected(range(0, 600, 100), 600, fps)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("fps", [10, 4, 3])
def test_film_of_varying_rate_is_sampled_by_time(tmp_path, ending, fps):
    begins = [0, 100, 500, 600, 1200, 1300]
    path = write_film(tmp_path / f"a.{ending}", times=begins)
    length = sum(float(frame.duration * frame.time_base) for frame in last_frame(path)) * 1000
    assert shown(path, fps) == expected(begins, 1300 + length, fps)


def last_frame(path):
    with av.open(str(path)) as container:
        return list(container.decode(video=0))[-1:]


def test_clock_starts_with_the_first_frame(tmp_path):
    path = write_film(tmp_path / "a.mkv", levels=LEVELS[:3], times=[5000, 5100, 5200])
    assert shown(path, 10) == [0, 1, 2]


@pytest.mark.parametrize("fps", [24, 30, 29.97])
def test_rounded_timestamps_repeat_and_lose_no_frame(tmp_path, fps):
    path = write_film(tmp_path / "a.webm", rate=Fraction(fps).limit_denominator(1001))  # WebM counts milliseconds
    assert shown(path, fps) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("ending, options", [("gif", {}), ("png", {}), ("webp", {"lossless": True})])
@pytest.mark.parametrize("fps", [10, 7])
def test_delays_of_moving_pictures_are_kept(tmp_path, ending, options, fps):
    path = write_moving(tmp_path / f"a.{ending}", [100, 400, 50, 250], **options)
    assert shown(path, fps) == expected([0, 100, 500, 550], 800, fps)


def test_delay_of_zero_is_a_tenth_of_a_second_as_in_browsers(tmp_path):
    assert shown(write_moving(tmp_path / "a.gif", [0, 0, 0]), 10) == [0, 1, 2]


def test_picture_is_a_film_of_one_frame(tmp_path):
    Image.new("RGB", (12, 8), (LEVELS[2],) * 3).save(tmp_path / "a.png")
    assert shown(tmp_path / "a.png", 30) == [2]


def test_cover_of_an_animated_png_is_no_frame_of_it(tmp_path):
    frames = [Image.new("RGB", (12, 8), (level,) * 3) for level in LEVELS[:3]]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=100, default_image=True)
    assert shown(tmp_path / "a.png", 10) == [1, 2]


def test_first_frame_is_there_at_any_rate(tmp_path):
    assert shown(write_film(tmp_path / "a.mp4"), 0.01) == [0]


def test_too_many_frames_are_refused_before_they_are_kept(tmp_path):
    path = write_film(tmp_path / "a.mp4")
    text = refusal(path, max_frames=5)
    assert "more than 5 frames at 10 a second" in text and "model.vision.max_frames" in text
    assert len(read_video(str(path), 10, 6)) == 6


def test_large_frames_are_made_smaller(tmp_path):
    for path in (write_film(tmp_path / "a.mp4", size=(64, 128)), write_moving(tmp_path / "a.gif", [100, 100])):
        frames = read_video(str(path), 10, 64, max_pixels=50)
        assert frames.shape[1:3] in ((5, 10), (5, 8))


def test_film_turned_by_its_metadata_is_turned(tmp_path):
    path = write_film(tmp_path / "a.mp4", levels=LEVELS[:1])
    upright, turned = (struct_of(*numbers) for numbers in ((1, 0, 0, 1), (0, 1, -1, 0)))
    head, _, tail = path.read_bytes().rpartition(upright)  # the first matrix is the film's, the last the track's
    path.write_bytes(head + turned + tail)
    assert read_video(str(path), 10, 64).shape == (1, 48, 32, 3)


def struct_of(a, b, c, d):
    """The matrix of a track: 16.16 fixed point, the last column 2.30."""
    numbers = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    return b"".join(number.to_bytes(4, "big", signed=True) for number in numbers)


def test_memory_is_that_of_the_sampled_frames(tmp_path):
    path = write_film(tmp_path / "a.mp4", levels=LEVELS * 20, size=(256, 256))
    tracemalloc.start()
    frames = read_video(str(path), 0.5, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(frames) == 6
    assert peak < 3 * frames.nbytes + 500_000


@pytest.mark.parametrize("ending", sorted(CODECS))
@pytest.mark.parametrize("share", [0.03, 0.5])
def test_truncated_film_is_refused(tmp_path, ending, share):
    path = write_film(tmp_path / f"a.{ending}", levels=range(20), noisy=True, faststart=True)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refusal(path)


@pytest.mark.parametrize("ending, options", [("gif", {}), ("png", {}), ("webp", {"lossless": True})])
def test_truncated_moving_picture_is_refused(tmp_path, ending, options):
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)) for _ in range(5)]
    path = tmp_path / f"a.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, **options)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refusal(path)


def test_corrupt_film_is_refused(tmp_path):
    path = write_film(tmp_path / "a.mp4", levels=range(20), noisy=True)
    data = bytearray(path.read_bytes())
    data[: len(data) // 2] = bytes(len(data) // 2)
    path.write_bytes(data)
    assert "cannot be read as a film" in refusal(path)


@pytest.mark.parametrize("ending", ["avi", "mkv"])
def test_film_without_frames_is_refused(tmp_path, ending):
    with av.open(str(tmp_path / f"a.{ending}"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        container.start_encoding()
    refusal(tmp_path / f"a.{ending}")


def test_sound_alone_is_refused(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert "no stream of pictures" in refusal(tmp_path / "a.mkv")


@pytest.mark.parametrize("data", [b"", b"a text\n"])
def test_file_that_is_no_film_is_refused(tmp_path, data):
    (tmp_path / "a.mp4").write_bytes(data)
    assert "give a whole MP4" in refusal(tmp_path / "a.mp4")


def test_playlist_that_names_another_file_is_refused(tmp_path):
    film = write_film(tmp_path / "secret.mp4")
    (tmp_path / "a.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n")
    assert "cannot be read as a film" in refusal(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_text(f"ffconcat version 1.0\nfile {film.name}\n")
    assert "cannot be read as a film" in refusal(tmp_path / "b.mp4")


def test_folder_and_missing_file_are_refused(tmp_path):
    assert "is no regular file" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "a.mp4")


def test_missing_decoder_is_told(tmp_path, monkeypatch):
    path = write_film(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install 'ernie5[data]'" in refusal(path)
