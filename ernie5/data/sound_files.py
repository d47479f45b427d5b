"""What a file is by its first bytes, and whether a sound file is as long as it says: libsndfile does not tell."""

import os
import struct
from typing import BinaryIO, Literal

SoundFormat = Literal["WAV", "FLAC", "MP3", "OGG"]

_HEAD = 64  # bytes that tell a format
# What people take for a sound that we read, by where in the file it has which bytes.
_OTHERS = (
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"GIF8", "a GIF picture"),
    (0, b"BM", "a BMP picture"),
    (8, b"WEBP", "a WebP picture"),
    (8, b"AVI ", "an AVI film"),
    (4, b"ftyp", "an MP4 or M4A file"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM file"),
    (0, b"FORM", "an AIFF sound"),
    (0, b".snd", "an AU sound"),
    (0, b"caff", "a CAF sound"),
    (0, b"riff", "a W64 sound"),
    (0, b"0&\xb2u", "a WMA or ASF file"),
    (0, b"ADIF", "an AAC sound"),
    (0, b"#!AMR", "an AMR sound"),
    (0, b"MThd", "a MIDI file"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
)
_OPEN_SIZES = (0, 0xFFFFFFFF)  # of a WAV's samples, if its writer could not go back to the header
_SOX_OPEN = 0x7FFF0000  # as SoX marks it: about 2 GB
_OGG_HEADER = 27  # bytes of a page before its table of segments
_OGG_PAGE = _OGG_HEADER + 255 + 255 * 255  # the longest
_OGG_LAST = 4  # flag of the page that ends a stream


def sound_format(file: BinaryIO) -> SoundFormat | None:
    """Which of the formats that we read the file is; None if it is none."""
    head = _read_at(file, 0, _HEAD)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return "WAV"
    if head[:4] == b"fLaC":
        return "FLAC"
    if head[:4] == b"OggS":
        return "OGG"
    return "MP3" if head[:3] == b"ID3" or _is_mp3_frame(head) else None


def describe(file: BinaryIO) -> str:
    """What a file that is no sound is, for a message: `a PNG picture`."""
    head = _read_at(file, 0, _HEAD)
    if not head:
        return "empty"
    for place, mark, name in _OTHERS:
        if head[place : place + len(mark)] == mark:
            return name
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "an AAC sound"
    if not any(head):
        return "a file of zeros"
    is_text = all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)
    return "a text" if is_text and _is_utf8(head) else "no sound that is known"


def check_whole(file: BinaryIO, kind: SoundFormat) -> str | None:
    """What is missing at the end, for a message; None if nothing is, or if only decoding will tell (FLAC, some MP3)."""
    checks = {"WAV": _missing_of_wav, "OGG": _missing_of_ogg, "MP3": _missing_of_mp3}
    return checks[kind](file) if kind in checks else None


def tells_length(file: BinaryIO) -> bool:
    """Whether an MP3 file says how long it is; if not, libsndfile infers it from the first frames' bit rate."""
    tag = _mp3_tag(_first_mp3_frame(file)[1])
    return tag is not None and bool(tag[0] & 1)


def _missing_of_wav(file: BinaryIO) -> str | None:
    size = file.seek(0, os.SEEK_END)
    order = ">" if _read_at(file, 0, 4) == b"RIFX" else "<"
    place = 12
    while len(header := _read_at(file, place, 8)) == 8:
        name, length = header[:4], struct.unpack(f"{order}I", header[4:])[0]
        place += 8
        if name == b"data":
            is_open = length in _OPEN_SIZES or length >= _SOX_OPEN
            return None if is_open else _shortage(size - place, length)
        place += length + length % 2
    return "it ends before its samples begin"


def _missing_of_ogg(file: BinaryIO) -> str | None:
    size = file.seek(0, os.SEEK_END)
    tail = _read_at(file, max(size - 2 * _OGG_PAGE, 0), 2 * _OGG_PAGE)
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < _OGG_HEADER or len(page) < _OGG_HEADER + page[26]:
        return "it ends within a page"
    if len(page) < _OGG_HEADER + page[26] + sum(page[_OGG_HEADER : _OGG_HEADER + page[26]]):
        return "it ends within a page"
    return None if page[5] & _OGG_LAST else "its last page is missing"


def _missing_of_mp3(file: BinaryIO) -> str | None:
    size = file.seek(0, os.SEEK_END)
    start, head = _first_mp3_frame(file)
    if size - start < _HEAD:
        return "it ends before its samples begin"
    tag = _mp3_tag(head)
    if tag is None or not tag[0] & 2:
        return None
    return _shortage(size - start, tag[1 + (tag[0] & 1)])  # the count of frames stands first, if it is there


def _first_mp3_frame(file: BinaryIO) -> tuple[int, bytes]:
    """Where the frames begin, after the ID3 tag, and the first bytes there."""
    start, head = 0, _read_at(file, 0, 10)
    if head[:3] == b"ID3" and len(head) == 10:
        start = 10 + sum(byte << 7 * power for power, byte in enumerate(reversed(head[6:])))
    return start, _read_at(file, start, _HEAD)


def _mp3_tag(head: bytes) -> tuple[int, int, int] | None:
    """Flags and the two numbers after them of the tag in the first frame (Xing or Info); None if there is none."""
    if len(head) < _HEAD or not _is_mp3_frame(head):
        return None
    is_version_1, is_mono = head[1] >> 3 & 3 == 3, head[3] >> 6 == 3
    place = 4 + {(True, False): 32, (False, True): 9}.get((is_version_1, is_mono), 17)  # after the side information
    mark, *numbers = struct.unpack_from(">4sIII", head, place)
    return tuple(numbers) if mark in (b"Xing", b"Info") else None


def _shortage(found: int, declared: int) -> str | None:
    return f"{found} of {declared} bytes of sound are there" if found < declared else None


def _is_mp3_frame(head: bytes) -> bool:
    """Whether these bytes are the header of a frame: sync, a version, layer 3, a bit rate and a sample rate."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    return version != 1 and layer == 1 and head[2] >> 4 != 15 and head[2] >> 2 & 3 != 3


def _is_utf8(head: bytes) -> bool:
    try:
        head[:-4].decode("utf-8") if len(head) == _HEAD else head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"  # the last letter was cut
    return True


def _read_at(file: BinaryIO, place: int, length: int) -> bytes:
    file.seek(place)
    return file.read(length)
