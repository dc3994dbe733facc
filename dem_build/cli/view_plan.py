"""A plan as a table: what would run, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from dem_build.cli.view_text import MARKS, STYLES, joined, say, shorten
from dem_build.plan import Status, Why

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dem_build.plan import Plan, Reason, Verdict

__all__ = ["name_width", "plan_table", "recipe_line"]

FOLD_FROM = 4
WAITS_SHOWN = 3


def plan_table(plan: Plan, console: Console, *, fold: bool = False) -> None:
    """Print a plan, one action a line with its verdict and reason; plain lines where there is no terminal.

    Args:
        plan: The plan.
        console: Where to.
        fold: Whether many recorded actions become one line.
    """
    if plan.up_to_date and fold:
        say(console, (f"{MARKS['ran']} ", "green"), f"up to date: {_actions(len(plan.verdicts))} recorded")
        return
    hits = plan.of(Status.HIT)
    folded = fold and len(hits) >= FOLD_FROM
    shown = [v for v in plan.verdicts.values() if not (folded and v.status is Status.HIT)]
    if console.is_terminal:
        console.print(_table(shown, console.width))
    else:
        _lines(shown, console)
    say(console, (_counts(plan), "dim"))


def recipe_line(named: str, console: Console) -> None:
    """Print which of several recipes follows."""
    console.print()
    say(console, (f"recipe {joined(named)}", "bold"))


def name_width(plan: Plan, limit: int) -> int:
    """Return the width that a column of the plan's due actions takes, at most `limit`."""
    names = [v.action.name for v in plan.verdicts.values() if v.status is not Status.HIT]
    return min(max((len(joined(n)) for n in names), default=0), limit)


def _table(verdicts: list[Verdict], width: int) -> Table:
    from rich.table import Table  # noqa: PLC0415  # a build with nothing to do prints no table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("action", no_wrap=True)
    table.add_column("why", overflow="fold")
    limit = max(width * 3 // 8, 16)
    for verdict in verdicts:
        status = verdict.status.value
        style = STYLES[status]
        name = Text(shorten(joined(verdict.action.name), limit), "dim" if status == "hit" else "")
        table.add_row(
            Text(f"{MARKS[status]} {status}", style),
            name,
            Text(_why(verdict.reason, limit) + _stored(verdict), "dim"),
        )
    return table


def _why(reason: Reason, limit: int) -> str:
    """Return a reason for a narrow column: of what a pending action waits for, the first names alone."""
    if reason.why is not Why.WAITS:
        return joined(reason)
    names = [shorten(joined(n), limit) for n in reason.waits_for[:WAITS_SHOWN]]
    more = len(reason.waits_for) - WAITS_SHOWN
    return f"depends on {', '.join(names)}" + (f" and {more} more" if more > 0 else "")


def _stored(verdict: Verdict) -> str:
    """Say what a GGUF file's blocks of integers become: the format is chosen, and not the file's own."""
    params = verdict.action.params
    return f" (GGUF, stored as {params['dtype']})" if params.get("source") == "gguf" else ""


def _lines(verdicts: list[Verdict], console: Console) -> None:
    width = max((len(joined(v.action.name)) for v in verdicts), default=0)
    for verdict in verdicts:
        name = joined(verdict.action.name)
        say(console, f"{verdict.status.value:<8} {name:<{width}}  {joined(verdict.reason)}{_stored(verdict)}")


def _counts(plan: Plan) -> str:
    due, pending, hits = (len(plan.of(s)) for s in (Status.RUN, Status.PENDING, Status.HIT))
    waiting = f", {pending} depend on what they make" if pending else ""
    return f"{_actions(due)} to run{waiting}, {hits} recorded"


def _actions(number: int) -> str:
    return "1 action" if number == 1 else f"{number} actions"
