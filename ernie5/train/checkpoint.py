"""Checkpoints: folders written aside, synced and renamed, with a checksum of every file; read only once they verify.

    step_00000100/  model*.safetensors  optimizer*.safetensors  state.json  config.yaml  tokenizer/  manifest.json
    best.json       the step with the lowest score, which retention keeps

A kill at any moment leaves every earlier checkpoint whole; what it cut short has a name that starts with a dot and goes
when the next `CheckpointStore` is made. Nothing is pickled.
"""

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from ernie5.errors import UserError
from ernie5.model.safetensors_file import FileRecord, write_synced
from ernie5.model.weights import load_tensors, save_tensors, sync_folder
from ernie5.train.manifest import Manifest, folder_name, read_manifest, verify, write_json, write_manifest

if TYPE_CHECKING:
    from ernie5.model.safetensors_file import Storable
    from ernie5.parallel.data_parallel import Ranks

SHARD_BYTES = 2**28  # one shard is the unit of hashing in parallel, when saving and when verifying
BEST = "best.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose files all have the checksums of its manifest."""

    path: Path
    step: int
    state: dict[str, Any]
    config_text: str
    tokenizer_digest: str

    def model_tensors(self) -> dict[str, np.ndarray]:
        """Parameters and buffers as read-only arrays over the mapped files; `weights.assign` takes them."""
        return load_tensors(self.path, "model")

    def optimizer_tensors(self) -> dict[str, np.ndarray]:
        """State by "<structured parameter name>/<state name>"; `optimizer_state.import_optimizer` takes it."""
        return load_tensors(self.path, "optimizer")

    @property
    def tokenizer_dir(self) -> Path:
        return self.path / "tokenizer"

    def require_model(self, config_text: str) -> None:
        """Raises UserError with the first key of the `model` section that differs from the checkpoint's."""
        there, here = (yaml.safe_load(text)["model"] for text in (self.config_text, config_text))
        difference = _first_difference("model", there, here)
        if difference:
            key, old, new = difference
            raise UserError(
                f"{self.path}: a checkpoint of another model, {key} is {old!r} there and {new!r} here; "
                "give the configuration it was trained with, or train without --resume"
            )

    def require_tokenizer(self, digest: str) -> None:
        """Raises UserError when the tokenizer in use gives other ids than the one the checkpoint was trained with."""
        if digest != self.tokenizer_digest:
            raise UserError(
                f"{self.path}: trained with another vocabulary, tokenizer digest {self.tokenizer_digest[:12]!r} there "
                f"and {digest[:12]!r} here; set tokenizer.path={self.tokenizer_dir}"
            )


class CheckpointStore:
    """The checkpoints of one run. It belongs to the processes of that run; readers use `open_checkpoint`."""

    def __init__(self, root: Path | str, keep: int = 2, ranks: "Ranks | None" = None):
        """`keep` newest checkpoints stay, beside the best. Removes what a killed save left behind.

        The `ranks` of a run make one together and call `open` together; without them the process is alone.
        """
        if keep < 1:
            raise UserError(f"train.keep_checkpoints is {keep}; set 1 or more")
        self.root = Path(root)
        self.keep = keep
        self._ranks = ranks
        self._num_begun = 0
        if ranks is None:
            self._recover()
        else:
            ranks.on_first(self._recover)  # it has claimed the folder

    def save(
        self,
        *,
        step: int,
        model_tensors: Mapping[str, "Storable"],
        optimizer_tensors: Mapping[str, "Storable"],
        **described: Any,
    ) -> Path:
        """Writes one checkpoint and returns its folder; `described` as in `commit`. What several processes have between
        them `saving.Saver` writes. On an error the temporary folder goes and the error goes on: the checkpoints that
        were there stay.
        """
        temporary = self.begin(step)
        try:
            files = save_tensors(model_tensors, temporary, "model", SHARD_BYTES)
            files |= save_tensors(optimizer_tensors, temporary, "optimizer", SHARD_BYTES)
        except BaseException:
            self.abandon(temporary)
            raise
        return self.commit(temporary, files, step=step, **described)

    def begin(self, step: int) -> Path:
        """A new folder to write a checkpoint into, aside of the others."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._num_begun += 1  # others may still write into one of the same step that was given up
        temporary = self.root / f".tmp-{folder_name(step)}-{os.getpid()}-{self._num_begun}"
        _remove(temporary)
        temporary.mkdir()
        return temporary

    def commit(
        self,
        temporary: Path,
        files: dict[str, FileRecord],
        *,
        step: int,
        state: Mapping[str, Any],
        config_text: str,
        tokenizer_dir: Path | None = None,
        tokenizer_digest: str = "",
        score: float | None = None,
        measure: str = "",
    ) -> Path:
        """Makes a checkpoint of a folder that has `files`. The lowest `score` so far (validation loss) is the best.

        Scores of another `measure` than the best one's cannot be compared with it: the first of them takes its place.
        `state` is JSON-able, without NaN. A checkpoint of the same step is replaced. On an error the folder goes.
        """
        final = self.root / folder_name(step)
        try:
            files = files | {"state.json": write_json(temporary / "state.json", state)}
            files["config.yaml"] = write_synced(temporary / "config.yaml", [config_text.encode()])
            if tokenizer_dir is not None:
                files |= _copy_folder(tokenizer_dir, temporary / "tokenizer")
            write_manifest(temporary, Manifest(step, self._next_serial(), tokenizer_digest, files))
            sync_folder(temporary)
            self._put_in_place(temporary, final)
        except BaseException:
            self.abandon(temporary)
            raise
        if score is not None and not math.isnan(score) and score < self._best_score(measure):
            _replace_json(self.root / BEST, {"step": step, "score": score, "measure": measure})
        self._retain()
        return final

    def abandon(self, temporary: Path) -> None:
        """Removes what `begin` has made."""
        _remove(temporary)

    def open(self, which: Path | str = "auto") -> Checkpoint:
        """The checkpoint in folder `which`, or with "auto" the newest that verifies; raises UserError."""
        if str(which) != "auto":
            return open_checkpoint(Path(which), self._ranks)
        said = _gathered(self._ranks, json.dumps([path.name for path in self.newest_first()]))
        paths = [self.root / name for name in json.loads(said[0])]  # over a network others may see another moment
        if not paths:
            raise UserError(f"{self.root}: no checkpoint to resume from; train without --resume, or name one")
        first_error: UserError | None = None
        for path in paths:
            try:
                checkpoint = _open_verified(path, self._ranks)
            except UserError as error:
                logger.warning("skipped: %s", error)
                first_error = first_error or error
                continue
            return checkpoint
        raise UserError(f"{first_error}; no other checkpoint in {self.root} verifies: train without --resume")

    def newest_first(self) -> list[Path]:
        """Checkpoint folders by the order of saving; those with an unreadable manifest last. Nothing is verified."""
        return _newest_first(self.root)

    def best(self) -> Path | None:
        """The folder with the lowest score, if it is still there."""
        step = _read_best(self.root).get("step")
        path = self.root / folder_name(step) if isinstance(step, int) else None
        return path if path and path.is_dir() else None

    def _best_score(self, measure: str) -> float:
        best = _read_best(self.root)
        return best["score"] if self.best() and best["measure"] == measure else math.inf

    def _next_serial(self) -> int:
        return 1 + max((_serial(path) for path in self.newest_first()), default=0)

    def _put_in_place(self, temporary: Path, final: Path) -> None:
        aside = self.root / f".old-{final.name}"
        if final.exists():
            final.rename(aside)  # a kill here: `_recover` takes it back
        temporary.rename(final)
        sync_folder(self.root)
        _remove(aside)

    def _retain(self) -> None:
        best = self.best()
        for path in self.newest_first()[self.keep :]:
            if path != best:
                aside = self.root / f".trash-{path.name}"
                path.rename(aside)  # so that a kill while deleting leaves no half checkpoint under its name
                _remove(aside)

    def _recover(self) -> None:
        if not self.root.is_dir():
            return
        for path in self.root.glob(".old-step_*"):
            final = self.root / path.name.removeprefix(".old-")
            if not final.exists():
                with suppress(FileNotFoundError):  # another process of the run was faster
                    path.rename(final)
        for pattern in (".tmp-*", ".old-step_*", ".trash-step_*"):
            for path in self.root.glob(pattern):
                logger.info("removed what an interrupted save left: %s", path)
                _remove(path)


def open_checkpoint(path: Path, ranks: "Ranks | None" = None) -> Checkpoint:
    """Verifies one checkpoint folder and reads its small files. An error names the newest other one that verifies."""
    try:
        return _open_verified(path, ranks)
    except UserError as error:
        for other in (*_newest_first(path.parent), *_newest_first(path), *_newest_first(path / "checkpoints")):
            if other.resolve() != path.resolve() and _verifies(other):
                remedy = f"resume from {other} with --resume PATH, or from the newest that verifies with --resume auto"
                raise UserError(f"{error}; {remedy}") from None
        raise UserError(f"{error}; no other checkpoint in {path.parent} verifies") from None


def _open_verified(path: Path, ranks: "Ranks | None") -> Checkpoint:
    """What any process finds wrong with its share of the files, all raise."""
    manifest, found = None, ""
    try:
        manifest = verify(path, ranks.rank, ranks.size) if ranks else verify(path)
    except UserError as error:
        found = str(error)
    said = next(filter(None, _gathered(ranks, found)), "")
    if manifest is None or said:
        raise UserError(said)
    return Checkpoint(
        path=path,
        step=manifest.step,
        state=json.loads((path / "state.json").read_text(encoding="utf-8")),
        config_text=(path / "config.yaml").read_text(encoding="utf-8"),
        tokenizer_digest=manifest.tokenizer_digest,
    )


def _gathered(ranks: "Ranks | None", text: str) -> list[str]:
    return ranks.gathered(text) if ranks else [text]


def _verifies(path: Path) -> bool:
    try:
        verify(path)
    except UserError:
        return False
    return True


def _newest_first(root: Path) -> list[Path]:
    paths = [path for path in root.glob("step_*") if re.fullmatch(r"step_\d{8,}", path.name) and path.is_dir()]
    return sorted(paths, key=lambda path: (_serial(path), path.name), reverse=True)


def _serial(path: Path) -> int:
    try:
        return read_manifest(path).serial
    except UserError:
        return 0


def _read_best(root: Path) -> dict[str, Any]:
    try:
        best = json.loads((root / BEST).read_text(encoding="utf-8"))
        return {"step": int(best["step"]), "score": float(best["score"]), "measure": str(best.get("measure", ""))}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError):
        logger.warning("%s: damaged; the best checkpoint is counted anew", root / BEST)
        return {}


def _replace_json(path: Path, value: Any) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    write_json(temporary, value)
    temporary.rename(path)
    sync_folder(path.parent)


def _copy_folder(source: Path, target: Path) -> dict[str, FileRecord]:
    target.mkdir()
    files = sorted(path for path in source.iterdir() if path.is_file())
    records = {f"{target.name}/{path.name}": write_synced(target / path.name, [path.read_bytes()]) for path in files}
    sync_folder(target)
    return records


def _remove(path: Path) -> None:
    while path.exists():
        with suppress(FileNotFoundError):  # another process of the run removes it as well
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _first_difference(key: str, there: Any, here: Any) -> tuple[str, Any, Any] | None:
    if not (isinstance(there, dict) and isinstance(here, dict)):
        return None if there == here else (key, there, here)
    absent = "(absent)"
    for name in [*there, *(name for name in here if name not in there)]:
        found = _first_difference(f"{key}.{name}", there.get(name, absent), here.get(name, absent))
        if found:
            return found
    return None
