"""The two ways a run may end before its time: the user's mistake, and a fault."""

import errno
import logging
import sys
from collections.abc import Callable


class UserError(ValueError):
    """A user's mistake, told in one sentence: where (path or key), what was found, and the remedy."""


class Fault(RuntimeError):
    """Something broke while running (killed worker, NaN): told with its cause; nothing saved is lost."""


def exit_cleanly(main: Callable[[], int | None]) -> None:
    """Runs a tool's main: a user's mistake, a failing path or a full disk exits with 2, a fault with 1, in one line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        status = main() or 0
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        status = 2
    except Fault as error:
        sys.stderr.write(f"fault: {error}\n")
        status = 1
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            where = f" at {error.filename}" if error.filename else ""
            again = "run again (tools/train.py: with --resume auto)"
            sys.stderr.write(f"error: no space left on the disk{where}: free some and {again}\n")
        elif error.filename:
            sys.stderr.write(f"error: {error.filename}: {error.strerror}: correct the path or its permissions\n")
        else:
            raise
        status = 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped by the user\n")
        status = 130
    sys.exit(status)
