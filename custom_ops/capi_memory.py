"""Calling the C interface from NumPy: arrays in a device's memory between guards, and the library's functions.

The same calls go to a GPU, whose memory torch lends, or to the emulated library, whose memory is the host's.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}  # codes of the interface
STORED = {"bfloat16": np.dtype("uint16")}
GUARD = 256  # bytes before and behind every array; a multiple of 16, so that the array is aligned


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The bits of the nearest bfloat16, ties to even, uint16."""
    words = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((words + 0x7FFF + ((words >> 16) & 1)) >> 16).astype(np.uint16)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """float64 values as the dtype holds them, again in float64."""
    if dtype == "bfloat16":
        return (to_bfloat16(values).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.asarray(values).astype(dtype).astype(np.float64)


class Address:
    """A place within a buffer, as an argument."""

    def __init__(self, pointer: int):
        self.pointer = pointer


class Buffer:
    """An array in a device's memory. What nobody has written reads as NaN or -1."""

    def __init__(self, device: "Device", shape: Sequence[int], dtype: str, values: np.ndarray | None = None):
        self.device, self.shape, self.dtype = device, tuple(shape), dtype
        self._stored = STORED.get(dtype, None) or np.dtype(dtype)
        self._bytes = int(np.prod(self.shape, dtype=np.int64)) * self._stored.itemsize
        content = np.full(self._bytes + 2 * GUARD, 0xFF, np.uint8)
        content[:GUARD] = content[GUARD + self._bytes :] = 0xA5
        if values is not None:
            stored = to_bfloat16(values) if dtype == "bfloat16" else np.ascontiguousarray(values, self._stored)
            content[GUARD : GUARD + self._bytes] = np.frombuffer(stored.tobytes(), np.uint8)
        self._memory, start = device.take(content)
        self.pointer = start + GUARD

    def at(self, place: int) -> "Address":
        """The address of the element at `place` of the flat array."""
        return Address(self.pointer + place * self._stored.itemsize)

    def numpy(self) -> np.ndarray:
        """What is there now: float64 for floats, else the dtype itself. A kernel that wrote beyond it fails here."""
        content = self.device.give(self._memory)
        guards = np.concatenate([content[:GUARD], content[GUARD + self._bytes : 2 * GUARD + self._bytes]])
        assert (guards == 0xA5).all(), f"something was written outside of an array {self.shape} of {self.dtype}"
        stored = np.frombuffer(content[GUARD : GUARD + self._bytes].tobytes(), self._stored).reshape(self.shape)
        if self.dtype == "bfloat16":
            return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return stored.astype(np.float64) if self._stored.kind == "f" else stored


class Device:
    """A library and the memory that its kernels work on."""

    def __init__(self, library: Path, on_gpu: bool):
        self.library = ctypes.CDLL(str(library))
        self._torch: Any = None
        if on_gpu:
            import torch

            self._torch = torch

    def array(self, values: np.ndarray, dtype: str) -> Buffer:
        return Buffer(self, np.shape(values), dtype, values)

    def empty(self, *shape: int, dtype: str = "float32") -> Buffer:
        return Buffer(self, shape, dtype)

    def size(self, function: str, *arguments: int) -> int:
        """A function that answers bytes."""
        called = getattr(self.library, function)
        called.restype = ctypes.c_int64
        return called(*(ctypes.c_int64(argument) for argument in arguments))

    def run(self, function: str, *arguments: Address | Buffer | int | float | None) -> None:
        """Runs it to its end. A float goes as a double, an integer as an int64, None as a null pointer."""
        code = self.launch(function, *arguments)
        if self._torch:
            self._torch.cuda.synchronize()
        assert code == 0, f"{function}: CUDA error {code}"

    def launch(self, function: str, *arguments: Address | Buffer | int | float | None) -> int:
        """Starts it; returns the CUDA error."""
        stream = self._torch.cuda.current_stream().cuda_stream if self._torch else 0
        return getattr(self.library, function)(*map(_as_c, arguments), ctypes.c_void_p(stream))

    def take(self, content: np.ndarray) -> tuple[Any, int]:
        if self._torch:
            tensor = self._torch.from_numpy(content).cuda()
            return tensor, tensor.data_ptr()
        room = np.empty(content.size + 16, np.uint8)
        start = -room.ctypes.data % 16
        memory = room[start : start + content.size]
        memory[:] = content
        return memory, memory.ctypes.data

    def give(self, memory: Any) -> np.ndarray:
        return memory.cpu().numpy() if self._torch else memory


def _as_c(argument: Address | Buffer | int | float | None):
    if argument is None or isinstance(argument, (Address, Buffer)):
        return ctypes.c_void_p(argument.pointer if argument else None)
    return ctypes.c_double(argument) if isinstance(argument, float) else ctypes.c_int64(argument)
