"""Where things are: what is local, the project's folder, the cache."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.paths import expanded

if TYPE_CHECKING:
    from dem_build.machine import Machine

__all__ = ["cache_folder", "is_local", "may_be_hub_id", "project_folder"]

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_ROOTS = (".git", "pyproject.toml")


def may_be_hub_id(model: str) -> bool:
    """Tell whether a model's name has the form `org/name`; every other form is local, and nothing else."""
    return _HUB_ID.fullmatch(model) is not None and not model.endswith(".gguf")


def is_local(model: str, folder: Path) -> bool:
    """Tell whether a recipe's model is a file or folder here, and not a hub id.

    Args:
        model: As the recipe writes it.
        folder: The recipe's folder.

    Returns:
        True for bare names, `./`, `../`, `/`, `~` and `*.gguf`; for `org/name`, whether there is such a folder.
    """
    return not may_be_hub_id(model) or os.path.isdir(folder / model)  # noqa: PTH112  Path.is_dir raises for a name that is too long


def project_folder(recipe: Path) -> Path:
    """Return the nearest folder around a recipe that holds `.git` or `pyproject.toml`, else the recipe's own."""
    folders = recipe.absolute().parents
    return next((f for f in folders if any((f / root).exists() for root in _ROOTS)), folders[0])


def cache_folder(explicit: str | None, machine: Machine, machine_path: Path | None, recipe: Path) -> Path:
    """Return the folder of the store.

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
