"""A file appears whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ernie5.errors import UserError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # told by the tool that ends because of it


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A name beside `path` to write to, moved to `path` if that succeeds. Makes the folder if there is none.

    Raises UserError for a place that cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise
        raise UserError(f"{path}: cannot be written ({error.strerror or error}): name another place") from None
    finally:
        if temporary.exists():
            temporary.unlink()
