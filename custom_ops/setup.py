"""Compiles the native operators against the PaddlePaddle that is installed, and installs them as `ernie5_ops`.

    pip install ./custom_ops        a C++17 compiler is all it needs; with paddlepaddle-gpu also nvcc

Environment:
    ERNIE5_OPS_MARCH    processor to compile for (GCC's -march; default native: this machine's)
    ERNIE5_OPS_JOBS     compilers at once (default: one a core)
    CUDA_HOME           of the CUDA toolkit (default /usr/local/cuda)
"""

import json
import os
import re
import shlex
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
CXX = shlex.split(os.environ.get("CXX", "g++"))
# GCC 12 takes the undefined operand of its own AVX-512 intrinsics for a mistake of ours.
WARNINGS = ["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-maybe-uninitialized"]
# No -ffast-math: it would let the compiler assume that there are no infinities, which masks are made of.
OPTIMIZE = ["-O3", "-std=c++17", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
# PADDLE_NO_PYTHON leaves out pybind, which halves the time that a binding takes to compile.
BINDING = ["-O1", "-std=c++17", "-fPIC", "-w", "-DPADDLE_NO_PYTHON", "-DPADDLE_WITH_CUSTOM_KERNEL"]
CUDA_ARCHS = ("80", "90")
# _FORTIFY_SOURCE would take the emulation's jumps between stacks for an attack.
EMULATION = ["-x", "c++", "-O2", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-U_FORTIFY_SOURCE", "-Wall", "-Wextra"]
EMULATION += ["-Wno-unknown-pragmas", "-DERNIE5_CUDA_EMULATION"]


class Failure(SystemExit):
    """One sentence, as the last line that pip shows."""

    def __init__(self, message: str):
        super().__init__(f"error: {message}")


def find_paddle() -> Path:
    """The package folder of the PaddlePaddle of this environment; pip's build isolation hides it from `import`."""
    for name in ("purelib", "platlib"):
        folder = Path(sysconfig.get_path(name)) / "paddle"
        if (folder / "include" / "paddle" / "extension.h").exists():
            return folder
    raise Failure(
        f"no PaddlePaddle in {sysconfig.get_path('purelib')}: install paddlepaddle or paddlepaddle-gpu first, the "
        "operators are compiled against it"
    )


def paddle_version(paddle: Path) -> tuple[str, bool]:
    """Its version, and whether it is a CUDA build."""
    text = (paddle / "version" / "__init__.py").read_text(encoding="utf-8")
    said = dict(re.findall(r"^(full_version|cuda_version)\s*=\s*'([^']*)'", text, re.MULTILINE))
    return said["full_version"], said["cuda_version"] != "False"


def run(command: list[str | Path]) -> str:
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if result.returncode:
        print(shlex.join(map(str, command)), result.stdout, result.stderr, sep="\n")
        raise Failure(f"{Path(str(command[0])).name} failed on {command[-1]}: see above")
    return result.stdout


def cpu_flags(march: str) -> list[str]:
    """What the code may use of the processor, named as in /proc/cpuinfo."""
    macros = run([*CXX, f"-march={march}", "-dM", "-E", "-x", "c++", os.devnull])
    known = {
        "__AVX2__": "avx2",
        "__FMA__": "fma",
        "__AVX512F__": "avx512f",
        "__AVX512BW__": "avx512bw",
        "__AVX512VL__": "avx512vl",
        "__AVX512DQ__": "avx512dq",
        "__AVX512BF16__": "avx512_bf16",
        "__AMX_BF16__": "amx_bf16",
    }
    return [flag for macro, flag in known.items() if f"#define {macro} " in macros]


def compile_all(build: Path, output: Path, emulate_cuda: bool = False) -> dict:
    """Every kernel and binding into one library; returns what build.json says.

    emulate_cuda: the bindings call the kernels for GPUs, which run on the CPU: to test them where there is none.
    """
    paddle = find_paddle()
    version, cuda = paddle_version(paddle)
    march = os.environ.get("ERNIE5_OPS_MARCH", "native")
    include = [f"-I{HERE}"]
    paddle_include = [f"-I{paddle}/include", f"-I{paddle}/include/third_party"]
    build.mkdir(parents=True, exist_ok=True)
    commands, objects = [], []

    def plan(source: Path, compiler: list[str]) -> None:
        target = build / f"{source.parent.name}_{source.stem}.o"
        objects.append(target)
        commands.append([*compiler, "-o", target, "-c", source])

    for source in sorted([*HERE.glob("*/kernel_cpu*.cc"), *HERE.glob("common/*.cc")]):
        plan(source, [*CXX, *OPTIMIZE, *WARNINGS, f"-march={march}", *include])
    for source in sorted(HERE.glob("*/op.cc")):
        plan(source, [*CXX, *BINDING, *binding_flags(cuda, emulate_cuda), *include, *paddle_include])
    if emulate_cuda:
        plan(HERE / "capi.cu", [*CXX, *EMULATION, *include])
    elif cuda:
        plan(HERE / "capi.cu", nvcc())
    jobs = int(os.environ.get("ERNIE5_OPS_JOBS", len(os.sched_getaffinity(0))))
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, commands))
    # libiomp5 carries GCC's entry points too: one pool of threads with Paddle's own MKL, not a second beside it.
    libraries = [f"-L{paddle}/base", f"-L{paddle}/libs", "-Wl,--no-as-needed", "-l:libpaddle.so", "-l:libiomp5.so"]
    if cuda and not emulate_cuda:
        libraries += [f"-L{cuda_home()}/lib64", "-lcudart"]
    run([*CXX, "-shared", *objects, *libraries, "-ldl", "-o", output])
    cuda = "emulated" if emulate_cuda else cuda
    return {"paddle": version, "cuda": cuda, "march": march, "cpu_flags": cpu_flags(march)}


def binding_flags(cuda: bool, emulate_cuda: bool) -> list[str]:
    """Whether a binding may call the kernels for GPUs, and where Paddle's headers find CUDA's."""
    if emulate_cuda:
        return ["-DERNIE5_CUDA_EMULATION"]
    if not cuda:
        return []
    include = cuda_home() / "include"
    return ["-DPADDLE_WITH_CUDA", f"-I{include}", f"-I{include}/cccl"]


def cuda_home() -> Path:
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    if not (home / "bin" / "nvcc").exists():
        raise Failure(f"no nvcc in {home}: this PaddlePaddle is a CUDA build: install the toolkit or set CUDA_HOME")
    return home


def nvcc() -> list[str]:
    archs = [word for arch in CUDA_ARCHS for word in ("-gencode", f"arch=compute_{arch},code=sm_{arch}")]
    archs += ["-gencode", f"arch=compute_{CUDA_ARCHS[-1]},code=compute_{CUDA_ARCHS[-1]}"]
    return [
        str(cuda_home() / "bin" / "nvcc"),
        "-O3",
        "-std=c++17",
        "-Xcompiler",
        "-fPIC,-fvisibility=hidden",
        *archs,
        f"-I{HERE}",
    ]


class BuildOperators(build_py):
    """The Python files, and beside them the library and how it was built."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Of the Python files beside this one only the package itself; the others are programs of the checkout."""
        return [module for module in super().find_package_modules(package, package_dir) if module[1] == "__init__"]

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            raise Failure("an editable install is not supported: run pip install ./custom_ops again after a change")
        package = Path(self.build_lib) / "ernie5_ops"
        package.mkdir(parents=True, exist_ok=True)
        about = compile_all(Path(self.get_finalized_command("build").build_temp), package / "libernie5_ops.so")
        (package / "build.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


class BinaryDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return True


if __name__ == "__main__":
    setup(
        packages=["ernie5_ops"],
        package_dir={"ernie5_ops": "."},
        distclass=BinaryDistribution,
        cmdclass={"build_py": BuildOperators},
    )
