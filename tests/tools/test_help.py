"""`--help` of every program answers at once: argparse before Paddle."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = sorted((ROOT / "tools").glob("*.py"))
PADDLE_WAS_IMPORTED = 97


@pytest.fixture(scope="module")
def stub_paddle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `paddle` whose import ends the process, so that nothing can swallow it."""
    folder = tmp_path_factory.mktemp("stub")
    (folder / "paddle.py").write_text(f"import os\nos._exit({PADDLE_WAS_IMPORTED})\n", encoding="utf-8")
    return folder


def run_help(tool: Path, stub: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(stub), str(ROOT)])}
    command = [sys.executable, str(tool), *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_help_does_not_import_paddle(tool: Path, stub_paddle: Path):
    result = run_help(tool, stub_paddle, "--help")
    assert result.returncode != PADDLE_WAS_IMPORTED, "paddle is imported before the arguments are parsed"
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage:")


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_unknown_option_exits_with_2_and_without_a_traceback(tool: Path, stub_paddle: Path):
    result = run_help(tool, stub_paddle, "--no-such-option")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_stub_catches_an_import(stub_paddle: Path, tmp_path: Path):
    tool = tmp_path / "tool.py"
    tool.write_text("try:\n    import paddle\nexcept BaseException:\n    pass\n", encoding="utf-8")
    assert run_help(tool, stub_paddle).returncode == PADDLE_WAS_IMPORTED
