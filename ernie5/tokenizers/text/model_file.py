"""Reads and writes `tokenizer.model`, sentencepiece's ModelProto, without the protobuf package.

Only what decides the ids is written (pieces, scores, types, and the two settings blocks that sentencepiece wants), so
the same vocabulary is always the same bytes. Field numbers are those of sentencepiece_model.proto; wire types:
0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # SentencePiece.Type
_BPE = 2  # TrainerSpec.ModelType


class Piece(NamedTuple):
    """One vocabulary entry; its id is its place."""

    text: str
    score: float
    type: int


def read_pieces(model: bytes) -> list[Piece]:
    """The vocabulary of a sentencepiece model. Raises ValueError when the bytes are not one."""
    try:
        return [_read_piece(value) for number, value in _fields(model) if number == 1]
    except (AttributeError, IndexError, UnicodeDecodeError, struct.error, TypeError) as error:
        raise ValueError(f"not a sentencepiece model ({error})") from error


def write_model(pieces: list[Piece], unk: int, bos: int, eos: int, pad: int) -> bytes:
    """A sentencepiece BPE model that takes its input as it is (identity, no space added or removed)."""
    ids = {40: unk, 41: bos, 42: eos, 43: pad}  # unk_id, bos_id, eos_id, pad_id
    names = {45 + i: pieces[piece_id].text for i, piece_id in enumerate((unk, bos, eos, pad))}  # unk_piece, ...
    trainer = _uint(3, _BPE) + _uint(4, len(pieces)) + b"".join(_uint(number, value) for number, value in ids.items())
    trainer += b"".join(_bytes(number, name.encode()) for number, name in names.items())
    normalizer = _bytes(1, b"identity") + _uint(3, 0) + _uint(4, 0) + _uint(5, 1)
    body = b"".join(
        _bytes(1, _bytes(1, piece.text.encode()) + _key(2, 5) + struct.pack("<f", piece.score) + _uint(3, piece.type))
        for piece in pieces
    )
    return body + _bytes(2, trainer) + _bytes(3, normalizer)


def _read_piece(data: bytes) -> Piece:
    values = dict(_fields(data))
    score = struct.unpack("<f", values[2])[0] if 2 in values else 0.0
    return Piece(values.get(1, b"").decode(), score, values.get(3, NORMAL))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The (field number, value) of one message, in order."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _read_varint(data, at)
        elif wire in (1, 2, 5):
            size, at = _read_varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            value, at = data[at : at + size], at + size
            if at > len(data):
                raise ValueError("not a sentencepiece model (cut short)")
        else:
            raise ValueError(f"not a sentencepiece model (wire type {wire})")
        yield key >> 3, value


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _key(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _uint(number: int, value: int) -> bytes:
    return _key(number, 0) + _varint(value)


def _bytes(number: int, value: bytes) -> bytes:
    return _key(number, 2) + _varint(len(value)) + value
