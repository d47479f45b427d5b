"""The shape of the package, read from its source: who may import whom, and what a module must carry."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ernie5"

# A part imports from its own and from lower levels; parts of one level never import each other.
LEVELS = (
    ("errors",),
    ("config",),
    ("ops",),
    ("layers",),
    ("tokenizers", "refiner"),
    ("modality",),
    ("model",),
    ("data", "parallel", "elastic", "planning", "services"),
    ("train",),
    ("inference", "integrations", "analysis"),
    ("serving",),
)
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
WITHOUT_PADDLE = ("errors", "config", "planning")
WITHOUT_DISTRIBUTED = ("layers", "tokenizers", "modality", "model", "elastic")
CORE_LIBRARIES = {"paddle", "numpy", "yaml", "sentencepiece", "safetensors", "tqdm", "PIL"}
# Libraries of an extra: only inside a function, so that the core install imports every module.
EXTRA_LIBRARIES = {
    "visualdl",
    "matplotlib",
    "jieba",
    "paddlenlp",
    "av",
    "sklearn",
    "soundfile",
    "soxr",
    "espeakng_loader",
    "ray",
    "llguidance",
}
# Those of the server, which its program alone imports; nowhere else, not even inside a function.
SERVING_LIBRARIES = {"fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client"}


class Import(NamedTuple):
    """One imported module, by its absolute name."""

    module: str
    line: int
    on_import: bool  # at module level: it runs when the file is imported


def modules() -> list[Path]:
    """Every source file of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[Import]:
    """What a file imports; `from a import b` counts as both `a` and `a.b`, since b may be a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later = {  # what runs when a function is called, or never
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING")
        for node in ast.walk(block)
    }
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join((*above, *filter(None, [node.module])))
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            yield Import(name, node.lineno, id(node) not in later)


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to: its folder, or its own name at the top."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def where(path: Path, line: int) -> str:
    """A place to click on."""
    return f"{path.relative_to(ROOT)}:{line}"


def test_every_part_has_a_level():
    assert {part_of(path) for path in modules()} - {"__init__"} <= set(LEVEL)


def test_imports_point_downwards():
    wrong = []
    for path in modules():
        part = part_of(path)
        for found in imports(path):
            names = found.module.split(".")
            if part == "__init__" or names[0] != "ernie5" or len(names) < 2 or names[1] in (part, "__version__"):
                continue
            if LEVEL.get(names[1], len(LEVELS)) >= LEVEL[part]:
                wrong.append(f"{where(path, found.line)}: {part} imports {found.module}")
    assert not wrong, "\n".join(wrong)


def test_maths_knows_no_collectives():
    wrong = [
        f"{where(path, found.line)}: {found.module}"
        for path in modules()
        if part_of(path) in WITHOUT_DISTRIBUTED
        for found in imports(path)
        if found.module.startswith("paddle.distributed")
    ]
    wrong += [
        where(path, node.lineno)
        for path in modules()
        if part_of(path) in WITHOUT_DISTRIBUTED
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "paddle.distributed"
    ]
    assert not wrong, "\n".join(wrong)


def test_core_imports_only_core_libraries():
    wrong = []
    for path in modules():
        for found in imports(path):
            library = found.module.split(".")[0]
            if part_of(path) == "serving" and library in SERVING_LIBRARIES:
                continue
            lazy_extra = library in EXTRA_LIBRARIES and not found.on_import
            if library in sys.stdlib_module_names | CORE_LIBRARIES | {"ernie5"} or lazy_extra:
                continue
            wrong.append(f"{where(path, found.line)}: {library}")
    assert not wrong, "\n".join(wrong)


def test_configuration_and_planning_import_without_paddle():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in modules()
        if part_of(path) in (*WITHOUT_PADDLE, "__init__")
    ]
    program = f"import sys, importlib; [importlib.import_module(n) for n in {names}]; sys.exit('paddle' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_states_its_purpose(path: Path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "no module docstring"


def test_package_logs_and_never_prints():
    wrong = [
        where(path, node.lineno)
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "breakpoint")
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_is_named_after_nothing():
    assert not [path for path in modules() if path.stem in ("utils", "util", "common", "misc", "helpers", "pretrain")]
