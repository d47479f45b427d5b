"""Calls the CPU kernels with many small random shapes under the address and undefined-behaviour sanitizers.

    python -m custom_ops.sanitize [--rounds 60] [--seed 0] [--march native] [--only rms_norm]

Needs g++ with its sanitizers (Debian: in the package g++), no Paddle. Every operator has its calls in `<op>/fuzz.cc`.
Memory is exactly as large as the kernels are told; outputs and scratch memory start as NaN. The first finding ends it
with a non-zero status and says the operator and the seed, which give the same call again. Matrix products take the
plain loop.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
CXX = shlex.split(os.environ.get("CXX", "g++"))
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
# As in setup.py but for -O1; less work than there shall be shared out to threads, and scratch memory starts as NaN too.
FLAGS = ["-O1", "-g", "-std=c++17", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-w", "-DERNIE5_SMALL_WORK=64"]
FLAGS += ["-DERNIE5_POISON"]


def sources() -> list[Path]:
    operators = [path.parent for path in sorted(HERE.glob("*/fuzz.cc"))]
    kernels = [path for folder in operators for path in [*sorted(folder.glob("kernel_cpu*.cc")), folder / "fuzz.cc"]]
    return [*kernels, *sorted(HERE.glob("common/*.cc")), *sorted(HERE.glob("fuzz/*.cc"))]


def build(folder: Path, march: str = "native") -> Path:
    """Compiles the driver into `folder`; subprocess.CalledProcessError, with what it said, where a compiler fails."""

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.parent.name}_{source.stem}.o"
        _run([*CXX, *FLAGS, *SANITIZE, f"-march={march}", f"-I{HERE}", "-c", str(source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = list(pool.map(compile_one, sources()))
    driver = folder / "driver"
    _run([*CXX, *SANITIZE, "-fopenmp", *map(str, objects), "-ldl", "-o", str(driver)])
    return driver


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)


def run(driver: Path, rounds: int, seed: int = 0, only: str = "") -> subprocess.CompletedProcess[str]:
    """What the driver said; its returncode is 0 where nothing was found."""
    command = [str(driver), str(rounds), str(seed), *([only] if only else [])]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="calls of each operator and dtype (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first round (default %(default)s)")
    parser.add_argument("--march", default="native", help="processor to compile for (default %(default)s)")
    parser.add_argument("--only", default="", metavar="OPERATOR", help="one operator (default: all)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            driver = build(Path(folder), options.march)
        except subprocess.CalledProcessError as error:
            sys.exit(f"{shlex.join(error.cmd)}\n{error.stderr}")
        result = run(driver, options.rounds, options.seed, options.only)
    sys.stdout.write(result.stdout)
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
