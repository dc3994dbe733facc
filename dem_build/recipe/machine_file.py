"""Find and read the machine file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dem_build.errors import Problem, RecipeError
from dem_build.machine import Machine
from dem_build.paths import expanded
from dem_build.recipe import source
from dem_build.recipe.problems import mistakes_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["load_machine"]


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
    path = _find(explicit, recipe)
    if path is None:
        return Machine(), None
    text = source.read(path, "machine file")
    tables = source.decode(text, path)
    if source.too_deep(tables):
        raise RecipeError([Problem(str(path), 0, "", source.TOO_DEEP)])
    data = source.frozen(tables)
    if mistakes := mistakes_of(Machine, data):
        origin = source.Origin(str(path), text)
        raise RecipeError([origin.problem(m.key, m.what, m.hint) for m in mistakes])
    return Machine.model_validate(data, strict=True), path


def _find(explicit: Path | None, recipe: Path) -> Path | None:
    if explicit is not None:
        return explicit
    if named := os.environ.get("DEM_MACHINE"):
        return expanded(named)
    beside = recipe.parent / "machine.toml"
    return beside if beside.is_file() else None
