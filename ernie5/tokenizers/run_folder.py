"""The output folder of a tokenizer's training, and the record of its steps."""

import json
from pathlib import Path
from typing import Any, TextIO

from ernie5.errors import UserError

METRICS_FILE = "metrics.jsonl"


def claim_folder(path: str) -> Path:
    """Makes the output folder. UserError if something is in it, or it cannot be made."""
    output = Path(path)
    try:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError(f"output_dir: {output} exists already: remove it, or name another with -o output_dir=...")
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"output_dir: {output} cannot be written to ({error.strerror}): name another with -o output_dir=..."
        ) from None
    return output


def write_record(file: TextIO, record: dict[str, Any]) -> None:
    """A line of JSON, on disk at once."""
    file.write(json.dumps(record) + "\n")
    file.flush()
