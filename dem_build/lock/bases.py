"""What a recipe's `[base]` names on this machine: the model's files, and the chat template that it brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.errors import RecipeError, UsageError
from dem_build.lock.basemodel import CHAT_TEMPLATE, base_files
from dem_build.recipe import is_local

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from dem_build.action import SourceFile
    from dem_build.digest import JSON
    from dem_build.recipe import Recipe

__all__ = ["locate_base", "locate_template", "refuse_template", "template_is_new"]


def locate_base(recipe: Recipe) -> tuple[str, tuple[tuple[str, Path], ...]]:
    """Return how the base is read (`directory` or `gguf`), and the files of a local one with their tags.

    Raises:
        UsageError: It is not there, or is none that dem takes.
    """
    if not is_local(recipe.base.model, recipe.folder):
        return "directory", ()
    path = recipe.resolve(recipe.base.model)
    return ("gguf" if path.suffix == ".gguf" else "directory"), tuple(base_files(path))


def locate_template(recipe: Recipe) -> tuple[tuple[str, Path], ...]:
    """Return the chat template that the recipe brings, with its tag; nothing where it brings none.

    Raises:
        UsageError: There is no such file.
    """
    if recipe.base.chat_template is None:
        return ()
    path = recipe.resolve(recipe.base.chat_template)
    if not path.is_file():
        hint = "name a file of Jinja; a path starts from the recipe's folder"
        raise UsageError("no such file", where=str(path), hint=hint)
    return ((CHAT_TEMPLATE, path),)


def template_is_new(files: Iterable[SourceFile], old: JSON | None) -> bool:
    """Tell whether the recipe's chat template is none that a lock has: one that is locked was judged before."""
    known = [f["sha256"] for f in old["base"]["files"] if f["tag"] == CHAT_TEMPLATE] if old else []
    return any(f.tag == CHAT_TEMPLATE and f.digest not in known for f in files)


def refuse_template(recipe: Recipe) -> None:
    """Refuse a chat template that cannot write a question and its answer, before anything is built with it.

    Raises:
        RecipeError: It cannot.
    """
    named = recipe.base.chat_template
    if named is None:
        return
    from dem_build.data.template import check_template, read_template  # noqa: PLC0415  few recipes have one

    try:
        check_template(read_template(recipe.resolve(named)), named)
    except UsageError as error:
        problem = recipe.problem("base.chat_template", error.located, error.hint or "")
        raise RecipeError([problem]) from error
