"""What `dem plan` shows: the plan, what it takes, and what there is to note of the recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.report.text import joined
from dem_build.session.same_rows import said
from dem_build.view.overlap import say_shared
from dem_build.view.plan import (
    absent_lines,
    begun_lines,
    budget_lines,
    estimate_lines,
    inherited_rates_line,
    memory_lines,
    plan_table,
    rowless_lines,
    unevaluated_line,
)
from dem_build.view.text import say

if TYPE_CHECKING:
    from rich.console import Console

    from dem_build.session.outlook import Outlook


def outlook_lines(outlook: Outlook, console: Console) -> None:
    """Print all that is known before a build."""
    plan, written = outlook.session.plan, outlook.session.recipe
    if outlook.session.elsewhere is not None:
        say(console, ("warning: ", "yellow"), joined(outlook.session.elsewhere))
    plan_table(plan, console)
    begun_lines(outlook.begun, console)
    absent_lines(plan, console)
    budget_lines(outlook.mixtures, console)
    inherited_rates_line(written.inherited_rates, written.train.learning_rate, console)
    unevaluated_line(written.unevaluated, console)
    rowless_lines(plan.graph, console)
    estimate_lines(outlook.estimates, console, outlook.at_once)
    memory_lines(outlook.errors, outlook.warnings, console)
    for group in outlook.same_rows:
        say(console, ("warning: ", "yellow"), joined(said(group)))
    say_shared(outlook.shared, console)
