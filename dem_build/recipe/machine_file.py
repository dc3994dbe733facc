"""The machine file: found and read; and where the cache is by it."""

from __future__ import annotations

import os
from pathlib import Path

from dem_build.errors import Problem, RecipeError
from dem_build.machine import Machine
from dem_build.paths import expanded, project_folder
from dem_build.recipe import toml
from dem_build.recipe.messages import mistakes_of

__all__ = ["cache_folder", "load_machine"]


def load_machine(explicit: Path | None, recipe: Path) -> tuple[Machine, Path | None]:
    """Read the machine file: `--machine`, else `$DEM_MACHINE`, else `machine.toml` beside the recipe.

    Args:
        explicit: The file that the command line names.
        recipe: The recipe's file.

    Returns:
        The machine's keys and the file they are from; the defaults and None where there is no file.

    Raises:
        RecipeError: All the mistakes of the file, or a named file is not there.
    """
    # A file that is named must be there; the one beside the recipe may be missing.
    path = explicit
    if path is None and (named := os.environ.get("DEM_MACHINE")):
        path = expanded(named)
    if path is None and (beside := recipe.parent / "machine.toml").is_file():
        path = beside
    if path is None:
        return Machine(), None
    text, tables = toml.load(path, "machine file")
    if toml.too_deep(tables):
        raise RecipeError([Problem(str(path), 0, "", toml.TOO_DEEP)])
    data = toml.frozen(tables)
    if mistakes := mistakes_of(Machine, data):
        origin = toml.Origin(str(path), text)
        raise RecipeError([origin.problem(m.key, m.what, m.hint) for m in mistakes])
    return Machine.model_validate(data, strict=True), path


def cache_folder(explicit: str | None, machine: Machine, machine_path: Path | None, recipe: Path) -> Path:
    """The folder of the store.

    Args:
        explicit: `--cache`; relative to the working directory, as `$DEM_CACHE` is.
        machine: The machine file's keys; its `cache` is relative to the file.
        machine_path: The machine file, None where there is none.
        recipe: The recipe's file.

    Returns:
        An absolute path. It need not exist.
    """
    named = explicit or os.environ.get("DEM_CACHE")
    if named:
        return expanded(named).absolute()
    if machine.cache:
        folder = machine_path.absolute().parent if machine_path else Path.cwd()
        return folder / expanded(machine.cache)
    return project_folder(recipe) / "cache"
