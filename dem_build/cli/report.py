"""`dem report`: the page of what is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.report.text import clean
from dem_build.session.ending import draw_report
from dem_build.session.session import open_session
from dem_build.view.text import make_console

if TYPE_CHECKING:
    from dem_build.session.session import Call


def report(recipe: str, call: Call) -> int:
    """Draw the report of what is recorded of a recipe, and say where it is and what it lacks."""
    session = open_session(recipe, call)
    path, due = draw_report(session)
    lacks = (
        f" ({due} of {len(session.plan.graph.actions)} actions are due: `dem build` runs them)" if due else ""
    )
    make_console().print(clean(f"{path}{lacks}"), soft_wrap=True)
    return 0
