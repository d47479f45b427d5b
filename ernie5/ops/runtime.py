"""Settings of the process that decide how fast Paddle's CPU kernels run. They change results by rounding at most."""

import contextlib
import ctypes
import io
import os
import warnings
from pathlib import Path

from ernie5.config.schema import OpsConfig

# glibc's mallopt parameters (malloc.h)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_MADV_HUGEPAGE = 14  # madvise(2)


def start_paddle(threads: int = 0) -> None:
    """Imports Paddle with this many threads for its math libraries; call before anything else imports it.

    0: what OMP_NUM_THREADS says, else one a core; OpenMP reads it once. Paddle's remarks on more than one thread and on
    a missing ccache, which concern other uses, are not shown.
    """
    if threads or "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(threads or len(os.sched_getaffinity(0)))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a thread that spins at a barrier steals a busy machine's core
    choose_gemm_kernels()
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        import paddle  # noqa: F401


def configure(config: OpsConfig) -> None:
    """Applies the settings to this process. UserError if operators are wanted that are not there."""
    import paddle

    from ernie5.ops import backend

    # The stride kernels make views whose consumers then copy element by element on CPU: 10 to 100 times slower.
    paddle.set_flags({"FLAGS_use_stride_kernel": False})
    if config.keep_heap:
        keep_heap()
    backend.choose(config.backend, config.bf16_products)


def choose_gemm_kernels(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Lets the MKL that Paddle's CPU build ships (2019) use AVX2 on processors that are not Intel's, as it does there.

    By itself it runs its SSE kernels on them: 37 GFLOP/s instead of 104 on one core of an AMD EPYC, a training step 2.1
    times as long. MKL reads the variable at its first call. A value that the user has set stays.
    """
    try:
        text = cpuinfo.read_text()
    except OSError:
        return
    if "GenuineIntel" not in text and {"avx2", "fma"} <= set(text.split()):
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")


def keep_heap() -> bool:
    """Serves large tensors from the heap and never trims it, so that a step reuses the pages of the last one.

    Fresh pages are faulted in at about 2 GB/s, a fifth of a copy's speed. The memory is not given back to the system
    until the process ends. Returns whether the C library took the settings (only glibc does).
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    kept = bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1) and mallopt(_M_TOP_PAD, 256 << 20))
    if kept:
        _prefer_huge_pages(libc)
    return kept


def _prefer_huge_pages(libc: ctypes.CDLL) -> None:
    """Asks for pages of 2 MiB where the heap will grow, over the size of half the memory; none of it is taken by that.

    Each is faulted in at once, and a decoding step, which reads experts from everywhere, finds its way to them faster.
    """
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes, libc.madvise.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    page = os.sysconf("SC_PAGE_SIZE")
    size = os.sysconf("SC_PHYS_PAGES") // 2 * page
    start = libc.malloc(size)
    if start is None:  # as where a limit is set
        return
    libc.madvise((start + page - 1) // page * page, size - page, _MADV_HUGEPAGE)
    libc.free(start)  # it stays the heap's, as that is not trimmed
