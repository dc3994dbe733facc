"""`dem build`: look ahead, plan, run, publish, show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dem_build.engine.interrupt import Interrupt
from dem_build.errors import GRAVITY, DemError, InterruptedBuildError, RecipeError, UsageError
from dem_build.recipe import is_local, project_folder, read_recipe
from dem_build.report.actions import lines_after_results, lines_before_results
from dem_build.report.documents import build_document, failure_document
from dem_build.report.text import joined
from dem_build.session.build import building, refuse_plan
from dem_build.session.overlap import shared_documents
from dem_build.session.session import checked, open_session
from dem_build.view.follow import make_listener
from dem_build.view.overlap import say_shared
from dem_build.view.plan import recipe_line
from dem_build.view.results import (
    baseline_lines,
    closing_lines,
    remaining_warnings,
    result_table,
    say_lines,
    stage_lines,
)
from dem_build.view.text import make_console, render_error, say, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from rich.console import Console

    from dem_build.recipe import Recipe
    from dem_build.session.build import Built
    from dem_build.session.session import Call


def build(recipes: Sequence[str], call: Call) -> int:
    """Build recipes one after another, none where one cannot be built; the gravest exit status is the call's."""
    if len(recipes) > 1 and (wrong := _refusals(recipes, call)):
        for error in wrong.values():
            render_error(error, make_console(stderr=True))
        unbuilt = UsageError(f"not built, as {', '.join(wrong)} cannot be")
        if call.as_json:
            write_json([failure_document(recipe, wrong.get(recipe, unbuilt)) for recipe in recipes])
        return min((error.exit_status for error in wrong.values()), key=GRAVITY.index)
    console = make_console(stderr=call.as_json)
    statuses: list[int] = []
    documents: list[dict[str, Any]] = []
    with Interrupt() as interrupt:
        for recipe in recipes:
            if len(recipes) > 1:
                recipe_line(recipe, console)
            if interrupt.count:
                status, document = _failed(recipe, InterruptedBuildError("not built: the call was stopped"))
            else:
                status, document = _build_one(recipe, call, console, interrupt)
            statuses.append(status)
            documents.append(document)
    if call.as_json:
        write_json(documents[0] if len(recipes) == 1 else documents)
    return min(statuses, key=GRAVITY.index)


# Several recipes: all that can be told of them is told before the first is built, and none is built then.


def _refusals(recipes: Sequence[str], call: Call) -> dict[str, DemError]:
    """Recipe → what stands against building it.

    A recipe may build on what an earlier one will publish: it does not miss that, and only its text is judged.
    """
    found: dict[str, DemError] = {}
    coming: list[Path] = []
    for named in recipes:
        recipe: Recipe | None = None
        try:
            recipe = read_recipe(Path(named), call.overrides)[0]
            if recipe is not None and _coming_names(recipe, coming):
                checked(named, call.overrides)  # there are no files yet to resolve and plan with
            else:
                session = open_session(named, call)
                session.require()
                if not session.plan.up_to_date:
                    refuse_plan(session)
        except RecipeError as error:
            # What is wrong with files that will be others by then is judged when they are there.
            later = () if recipe is None else tuple(f"{key}." for key in _coming_names(recipe, coming))
            if problems := [p for p in error.problems if not f"{p.key}.".startswith(later)]:
                found[named] = RecipeError(problems)
        except DemError as error:
            found[named] = error
        if recipe is not None:
            coming.append(project_folder(recipe.path) / "out" / recipe.name)
    return found


def _coming_names(recipe: Recipe, coming: Sequence[Path]) -> list[str]:
    """The keys of a recipe that name files in folders which earlier recipes will publish."""
    named = {"base.model": recipe.base.model}
    named |= {f"vectors.{name}": getattr(v, v.source) for name, v in recipe.vectors.items()}
    places = {key: recipe.resolve(model) for key, model in named.items() if is_local(model, recipe.folder)}
    return [key for key, place in places.items() if any(place.is_relative_to(folder) for folder in coming)]


def _build_one(named: str, call: Call, console: Console, interrupt: Interrupt) -> tuple[int, dict[str, Any]]:
    listener = make_listener(console)
    try:
        with building(named, call, listener, interrupt) as built:
            document = _finish(built, listener.shown, console)
    except KeyboardInterrupt:
        return _failed(named, InterruptedBuildError("stopped"))
    except DemError as error:
        return _failed(named, error)
    return built.error.exit_status if built.error else 0, document | built.pushed


def _failed(named: str, error: DemError) -> tuple[int, dict[str, Any]]:
    render_error(error, make_console(stderr=True))
    return error.exit_status, failure_document(named, error)


def _finish(built: Built, shown: AbstractSet[tuple[str, str]], console: Console) -> dict[str, Any]:
    """Show what a build ended with; return it as a document."""
    ending = built.ending
    results, gates = ending.results, ending.gates
    remaining_warnings(results, console, shown)
    say_shared(ending.shared, console)
    say_lines(lines_before_results(results), console)
    stage_lines(results.stages, console)
    baseline_lines(results.baselines, console)
    result_table(results, gates, console)
    say_lines(lines_after_results(results), console)
    closing_lines(built.outcome, results, ending.model, console, ending.report)
    named = built.session.named
    if ending.model is not None and (displaced := built.session.displaced) is not None:
        say(console, ("note: ", "dim"), joined(displaced))
    document = build_document(named, built.outcome, ending.model, results, gates)
    document["overlap"] = shared_documents(ending.shared)
    if (error := built.error) is None:
        return document
    return document | {"error": failure_document(named, error)["error"]}
