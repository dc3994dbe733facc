"""The structure that docs/architecture.md draws: who may import whom.

`dem_build.store.files` stands in the layer of `store`. A module imports lower layers and its own group; an import
inside a function counts like any other.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS: dict[str, int] = {
    "errors": 0,
    "methods": 0,
    "demo": 1,
    "digest": 0,
    "host": 0,
    "parent": 0,
    "json_text": 0,
    "action": 0,
    "paths": 0,
    "stats": 0,
    "wording": 0,
    "machine": 1,
    "hardware": 1,
    "store": 1,
    "recipe": 1,
    "checkpoint": 1,
    "data": 1,
    "search": 1,
    "slots": 2,
    "watch": 2,
    "workload": 2,
    "step": 2,
    "lock": 2,
    "specs": 3,
    "model": 3,
    "graph": 4,
    "actions": 4,
    "plan": 5,
    "engine": 6,
    "report": 6,
    "estimate": 6,
    "compare": 7,
    "export": 7,
    "session": 7,
    "review": 8,
    "view": 8,
    "study": 9,
    "cli": 9,
    "__init__": 10,
    "__main__": 10,
}
SPECS = {"actions", "spec"}
"""Modules of actions that say what a kind is: torch-free, and lower than all that plans or runs one."""
VIEWS = {"read", "show"}
"""Modules of an action's folder that belong to the layer of the report: they read what is recorded, and show it."""
# Neighbours within a layer that may be imported, each for a reason.
NEIGHBOURS = {
    ("action", "dem_build.digest"),  # a key is a digest
    ("action", "dem_build.workload"),  # a kind says how much its actions have to do
    ("store", "dem_build.actions"),  # a record is held against the outputs of its kind
    ("recipe", "dem_build.machine"),  # a machine file is read like a recipe
    ("recipe", "dem_build.data.columns"),  # which columns a recipe may name is what formats read
    ("report", "dem_build.engine.outcome"),  # what became of a build is plain data
}

HEAVY = {"torch", "transformers", "datasets", "lm_eval", "accelerate", "peft"}
RUNS = {"actions", "model"}
"""What runs in a worker, and may import these."""
TERMINAL = {"rich", "typer", "click"}
SHOWN = {"cli", "view"}
"""What may write to it."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {
    name_of(p): ast.parse(p.read_text(encoding="utf-8")) for p in sorted((ROOT / "dem_build").rglob("*.py"))
}


def imports(module: str, *, run_time_only: bool = False) -> set[str]:
    """Every module that `module` imports, `from x import y` read as `x.y` where that is a module."""
    found: set[str] = set()
    for node in ast.walk(without_type_checking(MODULES[module]) if run_time_only else MODULES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name if name in MODULES else name.rpartition(".")[0] or name for name in found}


def without_type_checking(tree: ast.Module) -> ast.Module:
    body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    return ast.Module(body=body, type_ignores=[])


def ours(module: str) -> set[str]:
    return {name for name in imports(module) if name.split(".")[0] == "dem_build"} - {"dem_build"}


def group(module: str) -> str:
    parts = module.split(".")
    if parts[1] == "actions" and parts[-1] in VIEWS:
        return "report"
    if parts[1:4] == ["actions", "compose", "methods"]:
        return "methods"  # rules of recipes and the sum itself go by them
    return "specs" if parts[1] == "actions" and parts[-1] in SPECS else parts[1]


def roots(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports(module)}


def test_each_module_has_a_layer():
    assert {group(m) for m in MODULES} <= set(LAYERS)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_lower_layers_only(module):
    here = group(module)
    above = {
        name
        for name in ours(module)
        if group(name) != here
        and LAYERS.get(group(name), 9) >= LAYERS[here]
        and (here, name) not in NEIGHBOURS
    }
    assert not above, f"{module} (layer {LAYERS[here]}) imports {sorted(above)}"


def test_no_modules_import_each_other_in_a_circle():
    graph = {m: {n for n in imports(m, run_time_only=True) if n in MODULES and n != m} for m in MODULES}
    while free := {m for m, needed in graph.items() if not needed & graph.keys()}:
        graph = {m: needed for m, needed in graph.items() if m not in free}
    assert not graph, f"these import each other in a circle, or need one that does: {sorted(graph)}"


@pytest.mark.parametrize("module", [m for m in MODULES if group(m) not in RUNS])
def test_only_actions_import_heavy_libraries(module):
    assert not roots(module) & HEAVY


@pytest.mark.parametrize("module", [m for m in MODULES if group(m) not in SHOWN])
def test_only_the_command_line_and_its_views_write_to_the_terminal(module):
    calls = [n.func for n in ast.walk(MODULES[module]) if isinstance(n, ast.Call)]
    assert not [f.lineno for f in calls if isinstance(f, ast.Name) and f.id == "print"]
    assert not roots(module) & TERMINAL


def test_importing_all_but_what_runs_loads_no_heavy_library():
    others = ", ".join(m.removesuffix(".__init__") for m in MODULES if group(m) not in {*RUNS, "__main__"})
    code = f"import sys, {others}; print(*{HEAVY!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_layers_are_those_of_the_documentation():
    rows = [
        line.split("|")
        for line in (ROOT / "docs/architecture.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    drawn = {
        name.strip().strip("`/"): int(cells[1])
        for cells in rows
        if cells[1].strip().isdigit()
        for name in cells[2].split(",")
    }
    assert drawn == {name: layer for name, layer in LAYERS.items() if not name.startswith("__")}


def test_no_two_public_classes_have_one_name():
    """A name that means two things is looked up twice by whoever reads."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "dem_build").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(path.name)
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_no_two_test_modules_have_one_name():
    """pytest imports them by their names alone: of two, the second is not collected. Python reads some itself."""
    own = {"conftest.py", "sitecustomize.py"}
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name not in own]
    assert sorted({name for name in names if names.count(name) > 1}) == []
