"""What the commands show. Rendering only: no command, no decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.cli.view_baselines import baseline_lines, budget_lines, unevaluated_line
from dem_build.cli.view_error import render_error
from dem_build.cli.view_estimate import estimate_lines, memory_lines
from dem_build.cli.view_lines import PlainListener
from dem_build.cli.view_plan import plan_table, recipe_line
from dem_build.cli.view_results import (
    closing_lines,
    remaining_warnings,
    result_table,
    say_lines,
)
from dem_build.cli.view_text import clean, joined, make_console

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "PlainListener",
    "baseline_lines",
    "budget_lines",
    "clean",
    "closing_lines",
    "estimate_lines",
    "joined",
    "make_console",
    "make_listener",
    "memory_lines",
    "plan_table",
    "recipe_line",
    "remaining_warnings",
    "render_error",
    "result_table",
    "say_lines",
    "unevaluated_line",
]


def make_listener(console: Console) -> PlainListener:
    """Return what follows a build on this console: live on a terminal, plain lines elsewhere.

    Use it as a context manager, so that the terminal is left as it was.
    """
    # The stream is asked, not rich: FORCE_COLOR makes rich call a log a terminal, which live lines would spoil.
    if not console.file.isatty() or console.is_dumb_terminal:
        return PlainListener(console)
    from dem_build.cli.view_live import LiveListener  # noqa: PLC0415  # a log needs none of it

    return LiveListener(console)
