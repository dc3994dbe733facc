"""Errors as a person reads them: what, where, and how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from dem_build.cli.view_text import clean, hang, say
from dem_build.errors import RecipeError

if TYPE_CHECKING:
    from rich.console import Console

    from dem_build.errors import DemError, Problem

__all__ = ["render_error"]


def render_error(error: DemError, console: Console) -> None:
    """Print an error; of a recipe, all of its problems. Text of files is shown, never obeyed."""
    if isinstance(error, RecipeError):
        _problems(error.problems, console)
        return
    where = [(f"{clean(error.where)}: ", "bold")] if error.where else []
    say(console, ("error: ", "bold red"), *where, clean(error.what))
    _hint(error.hint, console)


def _problems(problems: list[Problem], console: Console) -> None:
    for problem in problems:
        place = f"{problem.file}:{problem.line}" if problem.line else problem.file
        parts = [(f"{clean(place)}: ", "bold"), ("error: ", "bold red")]
        key = [(clean(problem.key), "cyan"), (": ", "")] if problem.key else []
        say(console, *parts, *key, clean(problem.what))
        _hint(problem.hint, console)
    if len(problems) > 1:
        say(console, (f"{len(problems)} problems", "dim"))


def _hint(hint: str | None, console: Console) -> None:
    if hint:
        hang(console, Text("  hint:", "bold cyan"), Text(clean(hint)))
