"""Public functions of the package say what they take and what they give."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ernie5"
Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Functions and methods reachable by public names; `__init__` and other dunder methods are public."""
    for node in body:
        private = getattr(node, "name", "").startswith("_") and not getattr(node, "name", "").endswith("__")
        if isinstance(node, ast.ClassDef) and not private:
            yield from public_functions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, Function) and not private:
            yield prefix + node.name, node


def missing_annotations(function: Function) -> list[str]:
    """Names of the parameters without a type, and `return`; a constructor's return needs none."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    named += [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    missing = [a.arg for a in named if a.annotation is None and a.arg not in ("self", "cls")]
    if function.returns is None and function.name != "__init__":
        missing.append("return")
    return missing


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_functions_are_annotated(path: Path):
    wrong = [
        f"line {function.lineno}: {name} lacks {', '.join(missing)}"
        for name, function in public_functions(ast.parse(path.read_text(encoding="utf-8")).body)
        if (missing := missing_annotations(function))
    ]
    assert not wrong, "\n".join(wrong)


def test_check_sees_an_untyped_parameter():
    (found,) = public_functions(ast.parse("class A:\n    def f(self, x) -> int: ...").body)
    assert missing_annotations(found[1]) == ["x"]
