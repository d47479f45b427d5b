"""One safetensors file: written as a stream, hashed on the way; read as views over a map of the file, checked first.

The format is 8 bytes of header length, a JSON header, and the tensors without a gap. The project reads and writes it
itself because Paddle's own way in copies twice (`docs/benchmarks/`), and because NumPy has no bfloat16: here, as in
Paddle, a `uint16` array holds the bits of a bfloat16 tensor. No Paddle is imported; tensors are told by their methods.
"""

import hashlib
import json
import math
import mmap
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ernie5.errors import UserError

if TYPE_CHECKING:
    import paddle

    Storable = paddle.Tensor | np.ndarray | "Deferred"

NUMPY_OF_TAG = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # bits
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
TAG_OF_NUMPY = {dtype: tag for tag, dtype in NUMPY_OF_TAG.items()}
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
MAX_DIMS = 16
MAX_DIM = 2**48  # also of a tensor without elements, whose other dims no byte count checks
CHUNK_BYTES = 2**20  # hashed, then written while still in the cache
ALIGNMENT = 64  # of the first tensor: a cache line


@dataclass(frozen=True)
class FileRecord:
    """What a manifest keeps of a written file."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class TensorSpec:
    """One entry of a header; `begin` and `end` are byte positions in the file."""

    tag: str  # safetensors name of the dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Deferred:
    """A tensor that is made when it is written, and not kept: a folder becomes another without lying in memory."""

    dtype: np.dtype  # `uint16`: the bits of bfloat16, as everywhere here
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]  # of that dtype and shape


def dtype_tag(tensor: "Storable") -> str:
    """The safetensors name of a tensor's dtype; raises TypeError for one that the format here does not hold."""
    if isinstance(tensor, np.ndarray | Deferred):
        tag = TAG_OF_NUMPY.get(tensor.dtype.newbyteorder("<") if tensor.dtype.isnative else None)
    elif str(tensor.dtype) == "paddle.bfloat16":
        tag = "BF16"
    else:
        tag = TAG_OF_NUMPY.get(np.dtype(str(tensor.dtype).removeprefix("paddle.")))
    if tag is None:
        raise TypeError(f"no safetensors dtype for {tensor.dtype}")
    return tag


def host_array(tensor: "Storable") -> np.ndarray:
    """The tensor's elements, contiguous, in host memory; without a copy where it already is (`.numpy()` copies)."""
    if isinstance(tensor, Deferred):
        made = tensor.make()
        assert (made.dtype, made.shape) == (tensor.dtype, tensor.shape), "a deferred tensor is not what it said"
        tensor = made
    if not isinstance(tensor, np.ndarray):
        tensor = tensor.detach().contiguous()
        if not tensor.place.is_cpu_place():
            tensor = tensor.cpu()
        is_bfloat16 = dtype_tag(tensor) == "BF16"
        tensor = np.from_dlpack(tensor.view("int16") if is_bfloat16 else tensor)  # NumPy's dlpack has no bfloat16
    return np.ascontiguousarray(tensor).reshape(tensor.shape)  # a 0-d array comes back from the first with one dim


def num_bytes(tensor: "Storable") -> int:
    return math.prod(tensor.shape) * NUMPY_OF_TAG[dtype_tag(tensor)].itemsize


def write_file(path: Path, tensors: Mapping[str, "Storable"]) -> FileRecord:
    """Writes and syncs a file; copies at most one tensor at a time to the host. A failed write names the file."""
    # Large items first keeps every tensor aligned to its own item size.
    ordered = sorted(tensors, key=lambda name: -NUMPY_OF_TAG[dtype_tag(tensors[name])].itemsize)
    pieces = (host_array(tensors[name]).reshape(-1).view(np.uint8) for name in ordered)
    return write_synced(path, chain([_header_bytes(ordered, tensors)], pieces))


def write_synced(path: Path, pieces: Iterable[bytes | np.ndarray]) -> FileRecord:
    """Writes byte strings to a file that then survives a power cut (once its folder is synced), hashing on the way."""
    digest = hashlib.sha256()
    total = 0
    try:
        with open(path, "wb") as file:
            for piece in pieces:
                data = memoryview(piece)
                for start in range(0, len(data), CHUNK_BYTES):
                    chunk = data[start : start + CHUNK_BYTES]
                    digest.update(chunk)
                    file.write(chunk)
                total += len(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)  # write() itself does not know it
        raise
    return FileRecord(digest.hexdigest(), total)


def _header_bytes(ordered: list[str], tensors: Mapping[str, "Storable"]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "np"}}
    begin = 0
    for name in ordered:
        end = begin + num_bytes(tensors[name])
        shape = [int(dim) for dim in tensors[name].shape]
        header[name] = {"dtype": dtype_tag(tensors[name]), "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def read_header(path: Path) -> dict[str, TensorSpec]:
    """The checked header of a file that may come from anywhere: what it says fits the file byte for byte.

    Raises UserError with the file and the cause.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise _damaged(path, f"its header of {length} bytes does not fit in a file of {size} bytes")
            text = file.read(length)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name a folder that holds the weights") from None
    specs = [_spec(path, name, entry, 8 + length) for name, entry in _json_object(path, text).items()]
    position = 8 + length
    for name, spec in sorted(specs, key=lambda item: (item[1].begin, item[1].end)):
        if spec.begin != position:
            raise _damaged(path, f"tensor {name!r} starts at byte {spec.begin} where {position} was next")
        position = spec.end
    if position != size:
        raise _damaged(path, f"its tensors end at byte {position} of {size}")
    return dict(specs)


def map_file(path: Path) -> dict[str, np.ndarray]:
    """Name -> read-only array over a map of the file: nothing is read until it is touched. Checked as `read_header`."""
    specs = read_header(path)
    with open(path, "rb") as file:
        data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    return {
        name: data[spec.begin : spec.end].view(NUMPY_OF_TAG[spec.tag]).reshape(spec.shape)
        for name, spec in specs.items()
    }


def _damaged(path: Path, cause: str) -> UserError:
    return UserError(f"{path}: not a whole safetensors file, {cause}; copy or save it again")


def _json_object(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not valid JSON ({error})") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _spec(path: Path, name: str, entry: Any, data_start: int) -> tuple[str, TensorSpec]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"tensor {name!r} has no dtype, shape and data_offsets")
    tag, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(tag, str) or tag not in NUMPY_OF_TAG:
        raise UserError(f"{path}: tensor {name!r} has dtype {tag!r}; convert it to one of {', '.join(NUMPY_OF_TAG)}")
    if not _is_sizes(shape) or len(shape) > MAX_DIMS or max(shape, default=0) > MAX_DIM:
        raise _damaged(path, f"tensor {name!r} has shape {str(shape)[:80]}")
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise _damaged(path, f"tensor {name!r} has data_offsets {str(offsets)[:80]}")
    begin, end = offsets
    expected = math.prod(shape) * NUMPY_OF_TAG[tag].itemsize
    if end - begin != expected:
        raise _damaged(path, f"tensor {name!r} {tag} {shape} needs {expected} bytes and has {end - begin}")
    return name, TensorSpec(tag, tuple(shape), data_start + begin, data_start + end)


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
