"""Process settings, each tried in a process of its own because they cannot be taken back."""

import os
import platform
import subprocess
import sys

import pytest

from ernie5.ops.runtime import choose_gemm_kernels

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")


def in_a_process(program: str) -> str:
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@glibc
def test_keep_heap_reuses_the_pages_of_freed_arrays():
    program = """
import resource
import numpy as np
from ernie5.ops.runtime import keep_heap
{call}
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3): np.ones(4 << 20)
before = faults()
for _ in range(10): np.ones(4 << 20)
print(faults() - before)
"""
    kept, fresh = (int(in_a_process(program.format(call=call))) for call in ("assert keep_heap()", ""))
    # 10 arrays of 32 MiB: at least 160 faults, were all its pages huge ones of 2 MiB
    assert kept < 50 < 150 < fresh, f"{kept} page faults with the heap kept, {fresh} without"


def test_keep_heap_says_where_the_c_library_does_not_take_it(monkeypatch):
    import ctypes

    from ernie5.ops.runtime import keep_heap

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert keep_heap() is False


def test_start_paddle_sets_the_threads_before_the_import():
    program = (
        "import os; from ernie5.ops.runtime import start_paddle; start_paddle(3); print(os.environ['OMP_NUM_THREADS'])"
    )
    assert in_a_process(program) == "3"


def test_configure_turns_the_stride_kernels_off():
    program = """
import paddle
from ernie5.config.schema import OpsConfig
from ernie5.ops.runtime import configure
configure(OpsConfig(keep_heap=False))
print(paddle.get_flags('FLAGS_use_stride_kernel'))
"""
    assert "False" in in_a_process(program)


@pytest.mark.parametrize(
    ("cpuinfo", "chosen"),
    [
        ("vendor_id : AuthenticAMD\nflags : fpu avx avx2 fma", "5"),
        ("vendor_id : AuthenticAMD\nflags : fpu avx", None),
        ("vendor_id : GenuineIntel\nflags : fpu avx avx2 fma avx512f", None),
    ],
    ids=["AMD with AVX2", "AMD without", "Intel"],
)
def test_gemm_kernels_are_chosen_only_where_mkl_would_not(cpuinfo, chosen, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", "0")  # so that it is put back
    monkeypatch.delenv("MKL_DEBUG_CPU_TYPE")
    choose_gemm_kernels(tmp_path / "cpuinfo")
    assert os.environ.get("MKL_DEBUG_CPU_TYPE") == chosen


def test_gemm_kernels_that_the_user_chose_stay(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("vendor_id : AuthenticAMD\nflags : avx2 fma")
    monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", "4")
    choose_gemm_kernels(tmp_path / "cpuinfo")
    assert os.environ["MKL_DEBUG_CPU_TYPE"] == "4"


def test_a_machine_without_cpuinfo_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", "0")
    choose_gemm_kernels(tmp_path / "missing")
    assert os.environ["MKL_DEBUG_CPU_TYPE"] == "0"
