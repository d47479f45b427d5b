"""The manifest of a checkpoint folder: which files it holds, and the size and sha256 of each."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie5.errors import UserError
from ernie5.model.safetensors_file import CHUNK_BYTES, FileRecord, write_synced
from ernie5.model.weights import num_workers

FORMAT = "ernie5-checkpoint"
VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`: what the folder holds. `serial` counts the saves of a store, across resumes from older steps."""

    step: int
    serial: int
    tokenizer_digest: str
    files: dict[str, FileRecord]  # by path relative to the folder, with slashes


def folder_name(step: int) -> str:
    return f"step_{step:08d}"


def verify(path: Path, share: int = 0, shares: int = 1) -> Manifest:
    """Checks that a folder holds the files of its manifest, no more, no less, byte for byte; raises UserError.

    Of several processes that do so together each reads its share of the bytes; names and sizes are checked by all.
    """
    manifest = read_manifest(path)
    present = {file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()} - {MANIFEST}
    for name in sorted(manifest.files.keys() | present):
        if name not in manifest.files:
            raise UserError(f"{path / name}: not in the checkpoint's manifest")
        if name not in present:
            raise UserError(f"{path / name}: missing from the checkpoint")
        size, expected = (path / name).lstat().st_size, manifest.files[name].num_bytes
        if size != expected:
            raise UserError(f"{path / name}: {size} bytes where the checkpoint's manifest has {expected}")
    names = sorted(manifest.files, key=lambda name: -manifest.files[name].num_bytes)[share::shares]
    with ThreadPoolExecutor(num_workers()) as pool:
        for name, digest in zip(names, pool.map(lambda name: _sha256(path / name), names), strict=True):
            if digest != manifest.files[name].sha256:
                raise UserError(f"{path / name}: sha256 differs from the checkpoint's manifest")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    contents = {
        "format": FORMAT,
        "version": VERSION,
        "step": manifest.step,
        "serial": manifest.serial,
        "tokenizer_digest": manifest.tokenizer_digest,
        "files": {
            name: {"sha256": record.sha256, "num_bytes": record.num_bytes}
            for name, record in sorted(manifest.files.items())
        },
    }
    write_json(folder / MANIFEST, contents)


def read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if not path.is_dir():
        raise UserError(f"{path}: no such checkpoint folder")
    if not file.is_file():
        raise UserError(f"{path}: not a checkpoint, it has no {MANIFEST}")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({error})") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
        raise UserError(f"{file}: not the manifest of a checkpoint of format {FORMAT} version {VERSION}")
    try:
        manifest = _manifest(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: its contents are damaged ({error!r})") from None
    if path.name.startswith("step_") and path.name != folder_name(manifest.step):
        raise UserError(f"{file}: speaks of step {manifest.step}")
    return manifest


def _manifest(found: dict[str, Any]) -> Manifest:
    files = {name: FileRecord(str(entry["sha256"]), int(entry["num_bytes"])) for name, entry in found["files"].items()}
    missing = {"state.json", "config.yaml"} - files.keys()
    if missing:
        raise ValueError(f"no {min(missing)}")
    return Manifest(int(found["step"]), int(found["serial"]), str(found["tokenizer_digest"]), files)


def write_json(path: Path, value: Any) -> FileRecord:
    return write_synced(path, [json.dumps(value, indent=1, allow_nan=False).encode()])


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
