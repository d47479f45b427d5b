"""A folder of weights: one safetensors file, or shards with the index that Paddle's and torch's toolkits read."""

import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ernie5.errors import UserError
from ernie5.model.safetensors_file import FileRecord, dtype_tag, map_file, num_bytes, write_file, write_synced

if TYPE_CHECKING:
    import paddle

    from ernie5.model.safetensors_file import Storable

SHARD_BYTES = 5 * 10**9  # what Hugging Face's tools cut at
MAX_NAMED = 3  # names of wrong tensors that a message lists


def num_workers() -> int:
    """Threads for hashing and copying, both of which leave Python's lock: the cores this process may use, 8 at most."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def save_tensors(
    tensors: Mapping[str, "Storable"], folder: Path, stem: str = "model", max_shard_bytes: int = SHARD_BYTES
) -> dict[str, FileRecord]:
    """Writes `stem.safetensors`, or numbered shards and `stem.safetensors.index.json`, into an existing folder.

    Files of the same stem that stood there are replaced; every file and the folder are synced. Returns file name ->
    sha256 and size, hashed while writing. On an error the files that stood there are as they were.
    """
    shards = [{name: tensors[name] for name in names} for names in cut_names(sizes_of(tensors), max_shard_bytes)]
    (names,) = shard_names(stem, [len(shards)])
    temporary = [folder / f".{name}.tmp" for name in names]
    index_temporary = folder / f".{stem}.index.tmp"
    try:
        with ThreadPoolExecutor(min(num_workers(), len(shards))) as pool:
            records = dict(zip(names, pool.map(write_file, temporary, shards), strict=True))
        if len(shards) > 1:
            weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
            records[index_name(stem)] = write_index(index_temporary, weight_map, sum(sizes_of(tensors).values()))
        for path, name in zip([*temporary, index_temporary], records, strict=False):  # one shard has no index
            os.replace(path, folder / name)
    finally:
        for path in (*temporary, index_temporary):
            path.unlink(missing_ok=True)
    for path in _files_of(folder, stem):
        if path.name not in records:
            path.unlink()
    sync_folder(folder)
    return records


def load_tensors(folder: Path, stem: str = "model") -> dict[str, np.ndarray]:
    """Name -> read-only array over the mapped files; bfloat16 as `uint16` bits. UserError names file and cause."""
    single, index_path = folder / f"{stem}.safetensors", folder / index_name(stem)
    if single.exists() and index_path.exists():
        raise UserError(f"{folder}: holds both {single.name} and {index_path.name}; remove the one that is out of date")
    if single.exists():
        return map_file(single)
    if not index_path.exists():
        raise UserError(
            f"{folder}: has neither {single.name} nor {index_path.name}; name a folder that has the weights"
        )
    weight_map = _read_index(index_path)
    tensors: dict[str, np.ndarray] = {}
    for name in sorted(set(weight_map.values())):
        shard = map_file(folder / name)
        listed = {tensor for tensor, file in weight_map.items() if file == name}
        if listed != shard.keys():
            raise UserError(
                f"{folder / name}: its tensors are not those that {index_path.name} lists "
                f"({_first_names(listed ^ shard.keys())}); copy or save the folder again"
            )
        tensors |= shard
    return tensors


def assign(
    named_parameters: Iterable[tuple[str, "paddle.Tensor"]],
    tensors: Mapping[str, np.ndarray],
    source: Path | str,
    cast: bool = False,
) -> None:
    """Copies `tensors` into a model's parameters and buffers, or raises UserError naming what does not fit.

    Nothing is changed unless they fit (`check_fit`).
    """
    parameters = dict(named_parameters)
    check_fit(parameters, tensors, source, cast)
    for name, parameter in parameters.items():
        parameter.set_value(_as_dtype(tensors[name], parameter))


def check_fit(
    parameters: "Mapping[str, paddle.Tensor]",
    tensors: "Mapping[str, Storable]",
    source: Path | str,
    cast: bool = False,
) -> None:
    """UserError naming what does not fit, unless names, shapes and dtypes all agree.

    With `cast`, floating dtypes may differ (bfloat16 weights on a CPU, which computes in float32). `source` is what a
    message calls the tensors' origin.
    """
    differences = {
        "missing": [name for name in parameters if name not in tensors],
        "unknown to the model": [name for name in tensors if name not in parameters],
        "of another shape": [
            f"{name}: {list(tensors[name].shape)} there, {list(parameter.shape)} in the model"
            for name, parameter in parameters.items()
            if name in tensors and list(tensors[name].shape) != list(parameter.shape)
        ],
        "of another dtype": [
            f"{name}: {dtype_tag(tensors[name])} there, {dtype_tag(parameter)} in the model"
            for name, parameter in parameters.items()
            if name in tensors and not _dtype_fits(tensors[name], parameter, cast)
        ],
    }
    found = [f"{len(names)} {what} ({_first_names(names)})" for what, names in differences.items() if names]
    if found:
        raise UserError(f"{source}: weights of another model, {', '.join(found)}; load the model they belong to")


def sync_folder(folder: Path) -> None:
    """Makes renames and new names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def index_name(stem: str) -> str:
    """Of the file that says which file has which tensor."""
    return f"{stem}.safetensors.index.json"


def _files_of(folder: Path, stem: str) -> list[Path]:
    pattern = re.compile(re.escape(stem) + r"(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
    return [path for path in folder.iterdir() if pattern.fullmatch(path.name)]


def sizes_of(tensors: Mapping[str, "Storable"]) -> dict[str, int]:
    """Name -> bytes."""
    return {name: num_bytes(tensor) for name, tensor in tensors.items()}


def cut_names(sizes: Mapping[str, int], max_shard_bytes: int) -> list[list[str]]:
    """The names in order, in groups of at most `max_shard_bytes`; a larger tensor has a group of its own."""
    shards: list[list[str]] = [[]]
    room = max_shard_bytes
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= size
    return shards


def shard_names(stem: str, counts: Sequence[int]) -> list[list[str]]:
    """How many files each writer has -> their names: one for one file, else numbered through."""
    total, numbers = sum(counts), itertools.count(1)
    if total == 1:
        return [[f"{stem}.safetensors"] * count for count in counts]
    return [[f"{stem}-{next(numbers):05d}-of-{total:05d}.safetensors" for _ in range(count)] for count in counts]


def write_index(path: Path, weight_map: Mapping[str, str], total_size: int) -> FileRecord:
    """Which file has which tensor, as Paddle's and torch's toolkits read it."""
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
    return write_synced(path, [json.dumps(index, indent=2).encode()])


def _read_index(path: Path) -> dict[str, str]:
    """Tensor -> file name from an index that may come from anywhere: a file is a plain name in the index's folder."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); copy or save the folder again") from None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{path}: has no weight_map; copy or save the folder again")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w][\w.-]*\.safetensors", name, re.ASCII):
            raise UserError(f"{path}: says that {tensor!r} is in {name!r}; only files beside the index are read")
    return weight_map


def _dtype_fits(array: "Storable", parameter: "paddle.Tensor", cast: bool) -> bool:
    floating = ("F64", "F32", "F16", "BF16")
    stored, wanted = dtype_tag(array), dtype_tag(parameter)
    return stored == wanted or (cast and stored in floating and wanted in floating)


def _as_dtype(array: np.ndarray, parameter: "paddle.Tensor") -> "np.ndarray | paddle.Tensor":
    if dtype_tag(array) == dtype_tag(parameter):
        return array
    import paddle

    return paddle.to_tensor(array).astype(parameter.dtype)  # `uint16` becomes bfloat16 there


def _first_names(names: Iterable[str]) -> str:
    listed = sorted(names)
    return "; ".join(listed[:MAX_NAMED]) + (f"; and {len(listed) - MAX_NAMED} more" if len(listed) > MAX_NAMED else "")
