"""The folder of an exported model: what is in it, and whether all of it is there."""

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ernie5.errors import UserError
from ernie5.inference.predictor.program_ops import operators_in, refuse_unknown

MANIFEST, FORMAT = "export.json", 1
REMEDY = "copy the folder again, or export the model again"


class Manifest(NamedTuple):
    folder: Path
    ops: str  # "none": plain operators; "native": those of `ernie5_ops`
    parts: dict[str, dict[str, Any]]  # by name: `weights`, `inputs`, `outputs`, and what the part adds
    about: dict[str, Any]  # versions, dtype, the model's name


def write_manifest(folder: Path, ops: str, parts: dict[str, dict[str, Any]], about: dict[str, Any]) -> None:
    """Writes `export.json`, with the digests of all other files, which have been written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    digests = {path.relative_to(folder).as_posix(): digest_of(path) for path in files}
    value = {"format": FORMAT, "ops": ops, **about, "parts": parts, "sha256": digests}
    (folder / MANIFEST).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path | str, verify: bool = True) -> Manifest:
    """What a folder holds. UserError: it is no such folder, a file is missing, or (`verify`) not what was written."""
    folder = Path(folder)
    value = _read(folder / MANIFEST)
    if value.get("format") != FORMAT:
        raise UserError(f"{folder / MANIFEST}: format is {value.get('format')!r}, not {FORMAT}: {REMEDY}")
    digests, parts = value.get("sha256"), value.get("parts")
    if value.get("ops") not in ("none", "native") or not _is_table(digests, str) or not _is_table(parts, dict):
        raise UserError(f"{folder / MANIFEST}: is not what tools/export.py writes: {REMEDY}")
    for name, digest in digests.items():
        if not _is_inside(name):
            raise UserError(f"{folder / MANIFEST}: names {name!r}, which is not inside the folder: it is not opened")
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: is missing: {REMEDY}")
        if verify and digest_of(path) != digest:
            raise UserError(f"{path}: is not the file that was exported: {REMEDY}")
    for name, part in parts.items():
        files = [f"{name}.json", str(part.get("weights"))]
        if not set(files) <= set(digests) or not isinstance(part.get("inputs"), list):
            raise UserError(f"{folder / MANIFEST}: has no whole part {name!r}: {REMEDY}")
        refuse_unknown(operators_in(_read(folder / files[0])), folder / files[0])
    about = {key: value[key] for key in value if key not in ("parts", "sha256", "ops")}
    return Manifest(folder, value["ops"], parts, about)


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): name the folder of an exported model") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}): {REMEDY}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: is no object: {REMEDY}")
    return value


def _is_table(value: object, kind: type) -> bool:
    return isinstance(value, dict) and all(isinstance(one, kind) for one in value.values())


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name
