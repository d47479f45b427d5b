"""Builds libe5_kernels.so, the CUDA kernels behind the C interface of capi.cu. Needs nvcc, neither Paddle nor torch.

    python -m custom_ops.build_capi [--output PATH] [--archs 80 90] [--emulated]

With --emulated, a C++ compiler makes a library whose kernels run on the CPU with host pointers, slowly: for tests.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from custom_ops.setup import CXX, EMULATION

HERE = Path(__file__).resolve().parent
LIBRARY = HERE / "build" / "libe5_kernels.so"


class BuildError(RuntimeError):
    """A compiler said no; its words are the message."""


def find_nvcc() -> Path | None:
    """nvcc of CUDA_HOME (default /usr/local/cuda), if it is there."""
    nvcc = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "nvcc"
    return nvcc if nvcc.exists() else None


def cuda_command(output: Path, archs: list[str]) -> list[str]:
    """-Xptxas -v makes nvcc say each kernel's registers and spills on stderr."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError("no nvcc in CUDA_HOME (default /usr/local/cuda)")
    targets = [word for arch in archs for word in ("-gencode", f"arch=compute_{arch},code=sm_{arch}")]
    targets += ["-gencode", f"arch=compute_{archs[-1]},code=compute_{archs[-1]}"]
    flags = [
        "-O3",
        "-std=c++17",
        "-shared",
        "-cudart",
        "static",
        "-Xcompiler",
        "-fPIC,-fvisibility=hidden",
        "-Xptxas",
        "-v",
    ]
    return [str(nvcc), *flags, *targets, f"-I{HERE}", str(HERE / "capi.cu"), "-o", str(output)]


def emulated_command(output: Path) -> list[str]:
    return [*CXX, *EMULATION, "-shared", f"-I{HERE}", str(HERE / "capi.cu"), "-o", str(output)]


def build(output: Path, archs: list[str] | None = None, emulated: bool = False) -> str:
    """Compiles; returns what the compiler said."""
    command = emulated_command(output) if emulated else cuda_command(output, archs or ["80", "90"])
    output.parent.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise BuildError(f"{shlex.join(command)}\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=LIBRARY, help="default %(default)s")
    parser.add_argument("--archs", nargs="+", default=["80", "90"], help="compute capabilities (default: 80 90)")
    parser.add_argument("--emulated", action="store_true", help="for the CPU")
    options = parser.parse_args()
    sys.stdout.write(f"{build(options.output, options.archs, options.emulated)}{options.output}\n")


if __name__ == "__main__":
    main()
