"""Read a recipe: TOML → checked tables → a frozen `Recipe`, or all of its mistakes at once."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dem_build.errors import Problem, RecipeError
from dem_build.recipe import source
from dem_build.recipe.checks.rules import NAME, contradictions, revisions_of_folders
from dem_build.recipe.checks.tables import raw
from dem_build.recipe.checks.unsupported import not_yet
from dem_build.recipe.models import Recipe
from dem_build.recipe.problems import Mistake, mistakes_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dem_build.recipe.locate import Key

__all__ = ["load_recipe", "mistakes_in", "read_recipe"]

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


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> tuple[Recipe | None, list[Problem]]:
    """Read and check a recipe, and keep what is right of one that is wrong, so that more can be said of it.

    Args:
        path: The recipe's file; messages name it as it is given here.
        overrides: `KEY=VALUE` of each `--set`, applied in order before anything is checked.

    Returns:
        The recipe, less what a mistake puts in doubt, None where no recipe is left; and all the mistakes of the file
        and of the overrides.

    Raises:
        RecipeError: There is no TOML to read.
    """
    text = source.read(path, "recipe")
    data = source.decode(text, path)
    keys, problems = _override(data, overrides)
    if source.too_deep(data):
        raise RecipeError([*problems, Problem(str(path), 0, "", source.TOO_DEEP)])
    data = source.frozen(data)
    if "name" not in data:
        problems += _name_by_file(data, path)
    mistakes = [*mistakes_in(data), *revisions_of_folders(data, path.parent), *not_yet(data)]
    origin = source.Origin(str(path), text, keys)
    problems += [origin.problem(m.key, m.what, m.hint) for m in mistakes]
    recipe = _undoubted(data, mistakes)
    return recipe and recipe.placed(path, origin), problems


def _undoubted(data: dict[str, Any], mistakes: Sequence[Mistake]) -> Recipe | None:
    for mistake in mistakes:
        *tables, last = mistake.key[: DOUBTED.get(mistake.key[0], 1)]
        raw(data, *map(str, tables)).pop(str(last), None)
    try:
        return Recipe.model_validate({"name": "recipe", **data})
    except ValidationError:
        return None


def mistakes_in(data: dict[str, Any]) -> list[Mistake]:
    """Return what is wrong with a recipe's tables by the language alone, whatever this version can do.

    Args:
        data: The tables, with tuples for lists.
    """
    return [*mistakes_of(Recipe, data), *contradictions(data)]


def _override(data: dict[str, Any], texts: Sequence[str]) -> tuple[dict[Key, str], list[Problem]]:
    """Apply each `--set`; return the keys that were set, and what could not be."""
    keys: dict[Key, str] = {}
    problems: list[Problem] = []
    if texts:
        from dem_build.recipe import overrides as sets  # noqa: PLC0415  few calls have one
    for text in texts:
        try:
            keys[sets.apply(data, sets.parse(text))] = f"--set {text}"
        except sets.OverrideError as error:
            problems.append(Problem(f"--set {text}", 0, "", str(error)))
    return keys, problems


def _name_by_file(data: dict[str, Any], path: Path) -> list[Problem]:
    """Name a recipe that has no name after its file."""
    good = NAME.fullmatch(path.stem) is not None
    data["name"] = path.stem if good else "recipe"
    what = f"the file's name, `{path.stem}`, cannot name what is built"
    hint = 'set name = "…", made of letters, digits, `_` and `-`'
    return [] if good else [Problem(str(path), 0, "name", what, hint)]
