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
    "digest": 0,
    "host": 0,
    "json_text": 0,
    "kinds": 0,
    "paths": 0,
    "significance": 0,
    "machine": 1,
    "room": 1,
    "store": 1,
    "recipe": 1,
    "basemodel": 1,
    "adapter": 1,
    "finetuned": 1,
    "checkpoint": 1,
    "data": 1,
    "tasks": 1,
    "task_data": 1,
    "task_names": 1,
    "task_yaml": 1,
    "tuning": 1,
    "hub": 1,
    "bases": 2,
    "modelpins": 2,
    "pins": 2,
    "tasklock": 2,
    "lock": 2,
    "steps": 2,
    "leaks": 3,
    "graph": 3,
    "plan": 4,
    "execute": 5,
    "report": 5,
    "estimate": 5,
    "cli": 6,
    "__init__": 0,
    "__main__": 7,
}
# Neighbours within a layer that may be imported, each for a reason.
NEIGHBOURS = {
    ("kinds", "dem_build.digest"),  # a key is a digest
    ("recipe", "dem_build.machine"),  # a machine file is read like a recipe
    ("finetuned", "dem_build.basemodel"),  # a fine-tune is a model of the same kinds
    ("checkpoint", "dem_build.basemodel"),  # what the files of a checkpoint are called
    ("tasks", "dem_build.task_data"),  # the data are a part of the task
    ("tasks", "dem_build.task_names"),  # a task is found by its name
    ("tasks", "dem_build.task_yaml"),  # and read by its YAML
    ("task_names", "dem_build.task_yaml"),  # the names in a group's list
    ("tasks", "dem_build.data.sources"),  # a task's patterns mean the files that a dataset's do
    ("task_data", "dem_build.data.sources"),  # as of tasks
    ("task_data", "dem_build.data.splits_on_hub"),  # a task's folder of data is read as a dataset's
    ("lock", "dem_build.bases"),  # what the base's names stand for is a part of a lock
    ("lock", "dem_build.modelpins"),  # what a hub's names stand for is a part of a lock
    ("lock", "dem_build.tasklock"),  # as of bases
    ("lock", "dem_build.pins"),  # what a hub's names stand for is a part of a lock
    ("report", "dem_build.execute.outcome"),  # what became of a build is plain data
}

HEAVY = {"torch", "transformers", "datasets", "lm_eval", "accelerate", "peft"}
TERMINAL = {"rich", "typer", "click"}


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
    return module.split(".")[1]


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


@pytest.mark.parametrize("module", [m for m in MODULES if group(m) != "steps"])
def test_only_steps_import_heavy_libraries(module):
    assert not roots(module) & HEAVY


@pytest.mark.parametrize("module", [m for m in MODULES if group(m) != "cli"])
def test_only_the_command_line_writes_to_the_terminal(module):
    calls = [n.func for n in ast.walk(MODULES[module]) if isinstance(n, ast.Call)]
    assert not [f.lineno for f in calls if isinstance(f, ast.Name) and f.id == "print"]
    assert not roots(module) & TERMINAL


def test_importing_all_but_the_steps_loads_no_heavy_library():
    others = ", ".join(m.removesuffix(".__init__") for m in MODULES if group(m) not in {"steps", "__main__"})
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
