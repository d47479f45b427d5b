"""`metrics.jsonl`, one object a line, and the same numbers for VisualDL."""

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FILE_NAME = "metrics.jsonl"


class MetricsLog:
    """Appends records to a run's `metrics.jsonl`; every line is on its way to the disk when `write` returns.

    A record is JSON-able with a `kind` and mostly a `step`; a number that is not finite becomes null. Text is
    escaped to ASCII, because a sample may hold a lone surrogate, which UTF-8 cannot. With `visualdl`, the numbers of
    records that have a step go to `vdl_log/` as well, where the package is installed.
    """

    def __init__(self, run_dir: Path | str, visualdl: bool = False):
        self.path = Path(run_dir) / FILE_NAME
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _drop_half_line(self.path)
        self._file = open(self.path, "a", encoding="utf-8")
        self._writer = _visualdl_writer(self.path.parent / "vdl_log") if visualdl else None

    def write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(_finite(record), allow_nan=False) + "\n")
        self._file.flush()
        if self._writer is not None and "step" in record:
            for tag, value in _scalars(str(record["kind"]), record):
                self._writer.add_scalar(tag, value, record["step"])

    def truncate_after(self, step: int) -> None:
        """Drops the records of later steps, which a run that resumes at `step` will write again."""
        self._file.close()
        kept = [record for record in read_metrics(self.path) if record.get("step", 0) <= step]
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in kept)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        self._file = open(self.path, "a", encoding="utf-8")

    def close(self) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl` in order, without what a kill left of a last line; [] where there is no file."""
    path = Path(path)
    if not path.exists():
        return []
    records = []
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            logger.warning("%s: passed over a damaged line", path)
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _drop_half_line(path: Path) -> None:
    if path.exists():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _scalars(tag: str, value: Any) -> Iterator[tuple[str, float]]:
    """Numbers by path, `eval/members/half/loss`; lists (a number per layer) stand in the report only."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key not in ("kind", "step"):
                yield from _scalars(f"{tag}/{key}", item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield tag, float(value)


def _visualdl_writer(folder: Path) -> Any | None:
    try:
        from visualdl import LogWriter
    except ImportError:
        logger.info("VisualDL is not installed; curves go to %s and report.html only (pip install visualdl)", FILE_NAME)
        return None
    return LogWriter(logdir=str(folder))
