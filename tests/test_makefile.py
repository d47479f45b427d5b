"""How `make` compiles the native operators: with stand-ins for the compiler and for the environment's Python."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


class Environment:
    """A folder that make takes for a .venv that is set up; its Python notes what it is asked for and does nothing."""

    def __init__(self, folder: Path):
        self.folder, self.calls = folder, folder / "calls"
        (folder / "bin").mkdir(parents=True)
        for stamp in (".created", ".train", ".dev"):
            (folder / stamp).touch()
        self.program("bin/python", f'echo "$@" >> {self.calls}')
        self.program("compiler", "exit 0")

    def program(self, name: str, script: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (self.folder / name).chmod(0o755)

    def make(self, target: str, *arguments: str, compiler: str = "compiler") -> subprocess.CompletedProcess[str]:
        command = ["make", target, f"VENV={self.folder}", f"CXX={self.folder / compiler}", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    def said(self) -> str:
        return self.calls.read_text(encoding="utf-8") if self.calls.exists() else ""

    def is_built(self) -> bool:
        return (self.folder / ".operators").exists()


@pytest.fixture
def environment(tmp_path) -> Environment:
    return Environment(tmp_path / "venv")


def test_operators_are_installed_once_and_again_after_a_change(environment):
    assert environment.make("setup").returncode == 0
    assert environment.is_built()
    assert "install" in environment.said() and "./custom_ops" in environment.said()
    environment.calls.unlink()
    assert environment.make("setup").returncode == 0
    assert environment.said() == ""
    for changed in ("custom_ops/common/gemm.h", "custom_ops/rms_norm/op.cc", "custom_ops/setup.py", "constraints.txt"):
        assert "[3/3] compiling" in environment.make("setup", "-n", "-W", changed).stdout


def test_without_a_compiler_setup_goes_on_with_a_note_and_ops_fails(environment):
    result = environment.make("setup", compiler="absent")
    assert result.returncode == 0
    assert "is no C++17 compiler" in result.stderr and "apt install g++" in result.stderr
    assert not environment.is_built()
    assert "install" not in environment.said().replace("uninstall", "")
    assert environment.make("ops", compiler="absent").returncode == 2


def test_what_does_not_compile_leaves_a_note_with_its_log_and_no_older_library(environment):
    assert environment.make("setup").returncode == 0
    environment.program("bin/python", f'echo "$@" >> {environment.calls}; echo "error: planted"; exit 1')
    result = environment.make("setup", "-W", "custom_ops/setup.py")
    log = environment.folder / "operators.log"
    assert result.returncode == 0
    assert str(log) in result.stderr and "error: planted" in log.read_text(encoding="utf-8")
    assert not environment.is_built()
    assert "uninstall -y ernie5-ops" in environment.said()
