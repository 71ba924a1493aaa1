"""Whatever a service persists has a failpoint, or a reason to have none (`transactions.toml`)."""

import ast
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from paceline_common import failpoints

ROOT: Final = Path(__file__).resolve().parents[2]
LISTED: Final[dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("transactions.toml").read_text()
)
EXEMPT: Final[list[str]] = [name for names in LISTED.values() for name in names]
_PASSES: Final = frozenset({"hit", "hit_after_commit"})
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def calls(function: _Function) -> Iterator[str]:
    """Name what a function calls itself, without the functions within it."""
    left = list(ast.iter_child_nodes(function))
    while left:
        node = left.pop()
        if isinstance(node, _Function | ast.ClassDef):
            continue
        if isinstance(node, ast.Call):
            yield node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        left += ast.iter_child_nodes(node)


def functions(node: ast.AST, name: str) -> Iterator[tuple[str, _Function]]:
    """Yield every function below a node with its full name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Function | ast.ClassDef):
            inner = f"{name}.{child.name}"
            if isinstance(child, _Function):
                yield inner, child
            yield from functions(child, inner)
        else:
            yield from functions(child, name)


def opening() -> dict[str, bool]:
    """Return every function that opens a transaction, and whether it passes a failpoint."""
    found = {}
    for path in sorted([*ROOT.glob("services/*/src/**/*.py"), *ROOT.glob("libs/*/src/**/*.py")]):
        package, *inner = path.parts[path.parts.index("src") + 1 :]
        module = ".".join([package.removeprefix("paceline_"), *inner]).removesuffix(".py")
        for name, function in functions(ast.parse(path.read_text()), module):
            called = set(calls(function))
            if "transaction" in called:
                found[name] = bool(called & _PASSES)
    return found


def test_who_opens_a_transaction_passes_a_failpoint_or_says_why_not() -> None:
    bare = {name for name, passes in opening().items() if not passes}
    assert {name for name in bare if not any(fnmatchcase(name, one) for one in EXEMPT)} == set()


def test_no_reason_is_left_over() -> None:
    bare = [name for name, passes in opening().items() if not passes]
    assert {one for one in EXEMPT if not any(fnmatchcase(name, one) for name in bare)} == set()


def test_what_others_are_said_to_pass_is_declared() -> None:
    assert set(LISTED["passed_by"].values()) <= {one.name for one in failpoints.declared()}
