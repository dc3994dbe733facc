"""Read a recipe: TOML → checked tables → a frozen `Recipe`, or all of its mistakes at once."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dem_build.errors import Problem, RecipeError
from dem_build.recipe import toml
from dem_build.recipe.checks import contradictions
from dem_build.recipe.checks.rows import revisions_of_folders
from dem_build.recipe.checks.tables import recovered
from dem_build.recipe.messages import Mistake, mistakes_in
from dem_build.recipe.schema import NAME, Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from dem_build.recipe.toml import Key

DOUBTED: Mapping[str | int, int] = MappingProxyType({"base": 2, "vectors": 2, "datasets": 3, "probes": 3})
"""Section → how much of it a mistake puts in doubt: so many parts of the mistake's key; else the whole section."""


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: The recipe's file; messages name it as it is given here.
        overrides: `KEY=VALUE` of each `--set`, applied in order before anything is checked.

    Raises:
        RecipeError: All the mistakes of the file and of the overrides.
    """
    recipe, problems = read_recipe(path, overrides)
    if recipe is None or problems:
        raise RecipeError(problems)
    return recipe


def read_recipe(
    path: Path, overrides: Sequence[str] = (), written: bytes | None = None, folder: Path | None = None
) -> tuple[Recipe | None, list[Problem]]:
    """Read and check a recipe, and keep what is right of one that is wrong, so that more can be said of it.

    Args:
        path: The recipe's file; messages name it as it is given here.
        overrides: `KEY=VALUE` of each `--set`, applied in order before anything is checked.
        written: The bytes of a recipe that need not lie there; then nothing on this machine is looked at, but for
            `folder`.
        folder: Where folders that it names are looked for; by default beside the file that is read.

    Returns:
        The recipe, less what a mistake puts in doubt, None where no recipe is left; and all the mistakes of the file
        and of the overrides.

    Raises:
        RecipeError: There is no TOML to read.
    """
    text, tables = toml.load(path, "recipe") if written is None else toml.parse(written, path, "recipe")
    keys, problems = _override(tables, overrides)
    if toml.too_deep(tables):
        raise RecipeError([*problems, Problem(str(path), 0, "", toml.TOO_DEEP)])
    data: dict[str, Any] = toml.frozen(tables)
    if "name" not in data:
        good = NAME.fullmatch(path.stem) is not None
        data["name"] = path.stem if good else "recipe"
        if not good:
            what = f"the file's name, `{path.stem}`, cannot name what is built"
            hint = 'set name = "…", made of letters, digits, `_` and `-`'
            problems.append(Problem(str(path), 0, "name", what, hint))
    recipe, mistakes = checked(data)
    mistakes += revisions_of_folders(recipe, path.parent if written is None else folder)
    origin = toml.Origin(str(path), text, keys)
    problems += [origin.problem(m.key, m.what, m.hint) for m in mistakes]
    # A recipe with `WRONG` values is for rules alone: what is kept is read anew, without what is in doubt.
    kept = _undoubted(data, mistakes) if mistakes else recipe
    return kept and kept.placed(path, origin), problems


def checked(data: Mapping[str, Any]) -> tuple[Recipe, list[Mistake]]:
    """A recipe, and what is wrong with it by the language alone, whatever this version can do.

    Args:
        data: The tables, with tuples for lists.

    Returns:
        The recipe; of tables with a wrong shape, one with `WRONG` values, which is of use to rules alone.
    """
    try:
        recipe, mistakes = Recipe.model_validate(data), []
    except ValidationError as error:
        recipe, mistakes = recovered(Recipe, data), mistakes_in(Recipe, error)
    return recipe, [*mistakes, *_inexact(data), *contradictions(recipe)]


def _inexact(data: Mapping[str, Any]) -> Iterator[Mistake]:
    """JSON holds whole numbers exactly below 2**53, and keys are made of JSON."""
    found: list[tuple[Key, Any]] = [((), data)]
    while found:
        key, value = found.pop()
        if isinstance(value, int) and abs(value) >= 2**53:
            yield Mistake(key, "is too large a number", "write one below 2**53")
        elif isinstance(value, dict):
            found += [((*key, name), item) for name, item in value.items()]
        elif isinstance(value, tuple):
            found += [((*key, index), item) for index, item in enumerate(value)]


def _undoubted(data: dict[str, Any], mistakes: Sequence[Mistake]) -> Recipe | None:
    for mistake in mistakes:
        *way, last = mistake.key[: DOUBTED.get(mistake.key[0], 1)]
        table: Any = data
        for part in way:
            table = table.get(part) if isinstance(table, dict) else None
        if isinstance(table, dict):
            table.pop(last, None)
    try:
        return Recipe.model_validate({"name": "recipe", **data})
    except ValidationError:
        return None


def _override(data: dict[str, Any], texts: Sequence[str]) -> tuple[dict[Key, str], list[Problem]]:
    """Apply each `--set`; return the keys that were set, and what could not be."""
    keys: dict[Key, str] = {}
    problems: list[Problem] = []
    if texts:
        from dem_build.recipe.overrides import OverrideError, override  # noqa: PLC0415  few calls have one
    for text in texts:
        try:
            keys[override(data, text)] = f"--set {text}"
        except OverrideError as error:
            problems.append(Problem(f"--set {text}", 0, "", str(error)))
    return keys, problems
