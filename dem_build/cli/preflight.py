"""What can be told of several recipes before the first of them is built: all of it is told, and none is built then."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.cli.session import checked, open_session
from dem_build.errors import DemError, RecipeError
from dem_build.recipe import is_local, project_folder, read_recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.cli.call import Call
    from dem_build.cli.session import Session
    from dem_build.errors import Problem
    from dem_build.recipe import Recipe

__all__ = ["refusals", "refuse_plan"]


def refusals(
    recipes: Sequence[str], call: Call, *, trust_tasks: bool, keep_going: bool
) -> dict[str, DemError]:
    """Return what stands against building several recipes, one after another.

    Args:
        recipes: As the user named them, in their order.
        call: The options.
        trust_tasks: Whether local task files may run.
        keep_going: Whether what does not depend on a failure goes on.

    Returns:
        Recipe → what is wrong. What an earlier one will publish is missed by none that builds on it, and of one that
        does only its text is judged.
    """
    found: dict[str, DemError] = {}
    coming: list[Path] = []
    for named in recipes:
        recipe: Recipe | None = None
        try:
            recipe = read_recipe(Path(named), call.overrides)[0]
            if recipe is not None and any(_is_within(path, coming) for path in _names(recipe).values()):
                checked(named, call.overrides)
            else:
                _judge(open_session(named, call), call, trust_tasks=trust_tasks, keep_going=keep_going)
        except RecipeError as error:
            if problems := [p for p in error.problems if not _may_come(p, recipe, coming)]:
                found[named] = RecipeError(problems)
        except DemError as error:
            found[named] = error
        if recipe is not None:
            coming.append(project_folder(recipe.path) / "out" / recipe.name)
    return found


def refuse_plan(session: Session, *, keep_going: bool) -> None:
    """Refuse a build that cannot come to its end, as far as files, packages and memory tell it before it runs.

    Args:
        session: What is to be built.
        keep_going: Whether one vector's failure is to stop nothing else: then it is left to fail by itself.

    Raises:
        DemError: It cannot.
    """
    from dem_build.engine.needs import refuse_missing, refuse_unmergeable  # noqa: PLC0415
    from dem_build.estimate import refuse_unfit  # noqa: PLC0415  where nothing is due, nothing that runs it loads

    refuse_missing(session.plan, session.machine)
    if not keep_going:
        refuse_unmergeable(session.plan)
    refuse_unfit(session.plan)


def _judge(session: Session, call: Call, *, trust_tasks: bool, keep_going: bool) -> None:
    if call.locked:
        session.require_locked(call)
    if not trust_tasks:
        session.require_trust()
    session.destination()
    if not session.plan.up_to_date:
        refuse_plan(session, keep_going=keep_going)


def _names(recipe: Recipe) -> dict[str, Path]:
    """Return the keys of a recipe that name files which another recipe may publish, and where these lie."""
    named = {"base.model": recipe.base.model}
    named |= {f"vectors.{name}": getattr(v, v.source) for name, v in recipe.vectors.items()}
    return {key: recipe.resolve(model) for key, model in named.items() if is_local(model, recipe.folder)}


def _may_come(problem: Problem, recipe: Recipe | None, coming: Sequence[Path]) -> bool:
    """Return whether what is wrong is with files that will be others once the recipes before are built."""
    if recipe is None:
        return False
    return any(
        f"{problem.key}.".startswith(f"{key}.") and _is_within(path, coming)
        for key, path in _names(recipe).items()
    )


def _is_within(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)
