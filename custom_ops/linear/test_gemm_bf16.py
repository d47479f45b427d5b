"""Products in bfloat16 with exactly sized memory under sanitizers: by vector instructions, and by AMX emulated."""

import subprocess
from pathlib import Path

import pytest

from custom_ops import sanitize
from ernie5.ops import backend

HERE = Path(__file__).parent
FLAGS = ["-O1", "-g", "-std=c++17", "-fopenmp", "-w", "-march=native", "-DERNIE5_SMALL_WORK=64", f"-I{HERE.parent}"]


@pytest.mark.parametrize("emulate", [[], ["-DERNIE5_EMULATE_AMX"]], ids=["vectors", "AMX emulated"])
def test_every_shape_is_the_sum_of_rounded_factors(emulate, tmp_path):
    if "avx512_bf16" not in backend.processor_flags():
        pytest.skip("needs a processor with AVX512-BF16")
    sources = [HERE / "check_gemm_bf16.cc", HERE.parent / "common/gemm_bf16.cc"]
    command = [*sanitize.CXX, *FLAGS, *sanitize.SANITIZE, *emulate, *map(str, sources), "-o", str(tmp_path / "check")]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs g++")
    finished = subprocess.run([tmp_path / "check"], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "largest error" in finished.stdout


def test_the_kernel_for_amx_compiles(tmp_path):
    """With the processor's own instructions, which nothing here may run."""
    command = [*sanitize.CXX, *FLAGS, "-march=sapphirerapids", "-c", str(HERE.parent / "common/gemm_bf16.cc")]
    try:
        subprocess.run([*command, "-S", "-o", str(tmp_path / "gemm.s")], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs g++")
    except subprocess.CalledProcessError as error:
        if "sapphirerapids" in error.stderr:
            pytest.skip("this g++ does not know the processor")
        raise
    assert "tdpbf16ps" in (tmp_path / "gemm.s").read_text()
