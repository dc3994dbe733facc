"""What Linux alone has is asked for before it is called, so that dem runs on macOS too."""

from __future__ import annotations

import ast
from pathlib import Path

from linux_alone import LINUX_ALONE

ROOT = Path(__file__).parents[1] / "dem_build"


def unguarded(tree: ast.Module) -> set[str]:
    """Attributes of modules that Linux alone has, in a function or module that does not name them as a text too."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in LINUX_ALONE and isinstance(node.value, ast.Name):
            scope: ast.AST = node
            while not isinstance(scope, ast.FunctionDef | ast.Module):
                scope = parents[scope]
            texts = {each.value for each in ast.walk(scope) if isinstance(each, ast.Constant)}
            if node.attr not in texts:  # as in `hasattr(os, "sched_getaffinity")`
                found.add(node.attr)
    return found


def test_the_rule_finds_a_call_and_passes_one_that_is_asked_for() -> None:
    assert unguarded(ast.parse("def f(d):\n    os.fdatasync(d)")) == {"fdatasync"}
    assert (
        unguarded(ast.parse("def f(d):\n    if hasattr(os, 'fdatasync'):\n        os.fdatasync(d)")) == set()
    )


def test_nothing_of_linux_alone_is_called_unasked() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}
    named = {path: text for path, text in texts.items() if any(name in text for name in LINUX_ALONE)}
    assert len(named) >= 3
    found = {path: unguarded(ast.parse(text)) for path, text in named.items()}
    assert {path.name: names for path, names in found.items() if names} == {}
