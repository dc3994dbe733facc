"""The machine file: found and read; and where the cache is by it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dem_build.errors import Problem, RecipeError
from dem_build.machine import Machine, Remote
from dem_build.paths import expanded, project_folder
from dem_build.recipe import toml
from dem_build.recipe.messages import mistakes_of

if TYPE_CHECKING:
    from dem_build.recipe.messages import Mistake

_VARIABLES = {"url": "DEM_REMOTE", "read": "DEM_REMOTE_READ", "write": "DEM_REMOTE_WRITE"}


def load_machine(explicit: Path | None, recipe: Path) -> tuple[Machine, Path | None]:
    """Read the machine file: `--machine`, else `$DEM_MACHINE`, else `machine.toml` beside the recipe.

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
    """The folder of the store, as an absolute path; it need not exist.

    Args:
        explicit: `--cache`; relative to the working directory, as `$DEM_CACHE` is.
        machine: The machine file's keys; its `cache` is relative to the file.
        machine_path: The machine file, None where there is none.
        recipe: The recipe's file.
    """
    named = explicit or os.environ.get("DEM_CACHE")
    if named:
        return expanded(named).absolute()
    if machine.cache:
        folder = machine_path.absolute().parent if machine_path else Path.cwd()
        return folder / expanded(machine.cache)
    return project_folder(recipe) / "cache"


def work_folder(machine: Machine, machine_path: Path | None) -> Path | None:
    """The folder for unfinished runs; None where they lie in the store.

    Args:
        machine: The machine file's keys; its `work` is relative to the file.
        machine_path: The machine file, None where there is none.
    """
    if machine.work is None:
        return None
    folder = machine_path.absolute().parent if machine_path else Path.cwd()
    return folder / expanded(machine.work)


def remotes_of(machine: Machine, machine_path: Path | None) -> tuple[Remote, ...]:
    """The remotes, with folders as absolute paths.

    `$DEM_REMOTE` names one remote in place of those of the file, `$DEM_REMOTE_READ` its namespaces with commas between
    them and `$DEM_REMOTE_WRITE` the one that is written. Without the first, these two replace `read` and `write` of
    the file's first remote. A variable that is empty is none; `DEM_REMOTE=none` asks no remote.

    Args:
        machine: The machine file's keys; its folders are relative to the file.
        machine_path: The machine file, None where there is none.

    Raises:
        RecipeError: A variable says what the file could not.
    """
    named = {key: os.environ.get(variable, "") for key, variable in _VARIABLES.items()}
    if named["url"] == "none":
        return ()
    folder = machine_path.absolute().parent if machine_path else Path.cwd()
    if not any(named.values()):
        return tuple(_placed(remote, folder) for remote in machine.remotes)
    if not named["url"] and not machine.remotes:
        what = "names a namespace, and no remote is named"
        variable = next(v for key, v in _VARIABLES.items() if named[key])
        raise RecipeError(
            [Problem(f"${variable}", 0, "", what, "set DEM_REMOTE, or `[[remotes]]` in machine.toml")]
        )
    table: dict[str, Any] = {} if named["url"] else machine.remotes[0].model_dump(exclude_none=True)
    if named["url"]:
        # The file's entry of the same address says where its server is.
        folder = Path.cwd()
        same = [r.endpoint for r in machine.remotes if r.url == named["url"].rstrip("/") and r.endpoint]
        table |= {"url": named["url"], **({"endpoint": same[0]} if same else {})}
    if named["read"]:
        table["read"] = tuple(part.strip() for part in named["read"].split(","))
    if named["write"]:
        table["write"] = named["write"]
    if mistakes := mistakes_of(Remote, table):
        raise RecipeError([_of_variables(mistake) for mistake in mistakes])
    first = _placed(Remote.model_validate(table, strict=True), folder)
    return (first, *(() if named["url"] else (_placed(remote, folder) for remote in machine.remotes[1:])))


def _placed(remote: Remote, folder: Path) -> Remote:
    if "://" in remote.url:
        return remote
    return remote.model_copy(update={"url": str(folder / expanded(remote.url))})


def _of_variables(mistake: Mistake) -> Problem:
    """A mistake of the variables, each of which has a key's part."""
    key = str(mistake.key[0]) if mistake.key else "url"
    return Problem(f"${_VARIABLES.get(key, _VARIABLES['url'])}", 0, "", mistake.what, mistake.hint)
