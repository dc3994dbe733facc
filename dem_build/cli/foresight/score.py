"""`dem score`: what a vector of new rows would do to each skill of a recipe, before it is trained."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.cli.edit.changes import recipe_here
from dem_build.cli.edit.seen import look
from dem_build.cli.edit.tables import keys_of
from dem_build.engine.interrupt import Interrupt
from dem_build.errors import UsageError
from dem_build.recipe import load_recipe
from dem_build.session.predictions import earlier_predictions, how_they_held
from dem_build.session.scoring import run_scoring, scoring
from dem_build.view.follow import make_listener
from dem_build.view.scores import NewRows, ScoreView
from dem_build.view.text import make_console, write_json

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from dem_build.session.session import Call

USAGE = "dem score RECIPE NEW.jsonl"
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")


def score(words: Sequence[str], call: Call, *, rows: int, sample: int) -> int:
    """Score new rows at the composed model, and say how earlier predictions held.

    Args:
        words: The recipe, where there are several here, and files, patterns or `hub:ID` of new rows.
        call: Its `overrides` are keys of the table that a recipe would have of them.
        rows: Most validation rows of a skill.
        sample: Most new rows that the gradient is of.

    Raises:
        UsageError: There are no such rows, or the composed model is not built.
        DemError: What failed.
    """
    named, sources = recipe_here(words, USAGE)
    if not sources:
        raise UsageError("new rows are needed", hint=USAGE)
    recipe = load_recipe(Path(named))
    taken = {*recipe.sources, *recipe.vectors, *recipe.baselines, *recipe.stages}
    found: dict[str, NewRows] = {}
    tables = {}
    for source in dict.fromkeys(sources):
        seen = look(source, "dataset", recipe.path, keys_of(call.overrides), offline=call.offline)
        name = _name(source, {*taken, *found})
        found[name], tables[name] = NewRows(source, seen.lines), seen.table
    call = replace(call, overrides=())
    with (
        scoring(named, call, tables, max_samples=rows, sample=sample) as session,
        Interrupt() as interrupt,
    ):
        with make_listener(make_console(stderr=True)) as listener:
            scored = run_scoring(session, listener, interrupt)
        view = ScoreView(session, found, scored, how_they_held(earlier_predictions(session.store)))
    if call.as_json:
        write_json(view.document())
    else:
        view.say(make_console())
    return 0


def _name(source: str, taken: Collection[str]) -> str:
    """A name for new rows that a dataset can have, and none of the recipe has."""
    stem = Path(source.partition("@")[0].removeprefix("hub:")).stem
    name = NOT_IN_NAMES.sub("-", stem).strip("-") or "new"
    return next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)
