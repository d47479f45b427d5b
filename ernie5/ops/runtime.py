"""Settings of the process that decide how fast Paddle's CPU kernels run. They change no result."""

import ctypes
import os

from ernie5.config.schema import OpsConfig

# glibc's mallopt parameters (malloc.h)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def set_threads(threads: int) -> None:
    """Threads of the math libraries, 0: one a core. Call before Paddle is imported: OpenMP reads it once."""
    os.environ["OMP_NUM_THREADS"] = str(threads or len(os.sched_getaffinity(0)))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a thread that spins at a barrier steals a busy machine's core


def configure(config: OpsConfig) -> None:
    """Applies the settings to this process."""
    import paddle

    # The stride kernels make views whose consumers then copy element by element on CPU: slices cost 10 to 100 times more.
    paddle.set_flags({"FLAGS_use_stride_kernel": False})
    if config.keep_heap:
        keep_heap()


def keep_heap() -> bool:
    """Serves large tensors from the heap and never trims it, so that a step reuses the pages of the last one.

    Fresh pages are faulted in at about 2 GB/s, a fifth of what the copy itself takes. The memory is not given back to the
    system until the process ends. Returns whether the C library took the settings (only glibc does).
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_M_TOP_PAD, 256 << 20))
