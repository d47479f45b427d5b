"""A Ray cluster: one that is there, or one of this machine alone, for as long as it is needed."""

import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from ernie5.errors import UserError

TEMPORARY = "/tmp"  # Ray's sockets lie there, and a socket's path has at most 107 characters, which TMPDIR may exceed
PATIENCE = 10.0  # seconds that a cluster has to answer at all; Ray itself would ask for minutes
_QUIET = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}


@contextmanager
def connected(address: str, cpus: int = 1, gpus: float = 0) -> Iterator[str]:
    """Ray at `address` (host:port), or, where that is empty, Ray on this machine with so many CPUs and GPUs to give.

    Gives the address at which others find it. What was started here ends with the block, and with this process, however
    that ends; nothing is sent to Ray's makers. UserError if Ray is missing or does not answer.
    """
    ray, handler = _import_ray(), signal.getsignal(signal.SIGTERM)
    folder = "" if address else tempfile.mkdtemp(prefix="ernie5-ray-", dir=TEMPORARY)
    try:
        yield _join(ray, address) if address else _start(ray, folder, cpus, gpus)
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, handler)  # Ray has set one of its own
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _join(ray: ModuleType, address: str) -> str:
    try:
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
        return ray.init(address=address, **_QUIET).address_info["gcs_address"]
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: another version of Ray or Python
        raise UserError(
            f"services.address is {address!r}, but no Ray cluster for this run answers there "
            f"({' '.join(str(error).split())}): start one with `ray start --head`, or leave the address out to have "
            "one started on this machine"
        ) from None


def _start(ray: ModuleType, folder: str, cpus: int, gpus: float) -> str:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    context = ray.init("local", num_cpus=cpus, num_gpus=gpus, include_dashboard=False, _temp_dir=folder, **_QUIET)
    return context.address_info["gcs_address"]


def _import_ray() -> ModuleType:
    try:
        import ray
    except ImportError:
        raise UserError(
            "services.num_workers is above 0, but ray is not installed: pip install 'ernie5[scale]', or set it to 0"
        ) from None
    return ray
