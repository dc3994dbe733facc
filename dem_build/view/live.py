"""Follows a build on a terminal: a live line per running action, and lines that stay above them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from dem_build.report import quantities
from dem_build.report.text import joined
from dem_build.view.lines import PlainListener
from dem_build.view.text import MARKS, STYLES, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console, RenderableType

    from dem_build.action import Action
    from dem_build.digest import JSON
    from dem_build.engine.outcome import Result
    from dem_build.plan import Plan, Verdict
    from dem_build.view.lines import Progress

REFRESH_PER_SECOND = 8
BAR = (8, 28)
GAP = 2
MOST_WAITING = 8
"""Live lines of what waits: a terminal has few, and those of what runs stand above them."""
# Columns right of the bar with their usual widths, so that the bar does not jump; dropped in this order
# where the terminal is narrow.
WIDTHS = {"left": 11, "loss": 10, "validation": 9, "speed": 9, "counted": 14, "memory": 7}
DROPPED = ("memory", "counted", "speed", "validation", "loss")


class LiveListener(PlainListener):
    """Follows a build on a terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live: Live | None = None
        self._spinner = Spinner("dots", style="cyan")
        self._total = 0
        self._ended_count = 0
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        """Take the live lines away, whatever happened."""
        self._stop()

    def build_started(self, plan: Plan) -> None:
        """Print the plan."""
        super().build_started(plan)
        self._total, self._ended_count = len(plan.verdicts) - len(self._known), 0
        self._began = time.monotonic()
        if self._total:
            self.console.print()

    def action_started(self, verdict: Verdict, pid: int | None = None) -> None:
        """Add a live line."""
        del pid
        self._begin(verdict.action)
        self._start()

    def action_waits(self, action: Action, holder: str) -> None:
        """Say that another process runs an action, and keep a live line for it."""
        super().action_waits(action, holder)
        self._start()

    def action_event(self, action: Action, event: Mapping[str, JSON]) -> None:
        """Show what an action says; one whose job waits, for the first time or again, has a live line that says so."""
        super().action_event(action, event)
        if event.get("event") == "queued":
            self.running.pop(action.name, None)
            self.waiting[action.name] = joined(event.get("message", ""))
            self._start()

    def action_ended(self, result: Result) -> None:
        """Turn a live line into one that stays."""
        self._ended_count += result.action.name not in self._known
        super().action_ended(result)
        if not self.running and not self.waiting:
            self._stop()

    def _progressed(self, name: str, progress: Progress) -> None:
        """Leave progress to the live lines."""

    def _start(self) -> None:
        if self._live is None:
            self._live = Live(
                console=self.console,
                get_renderable=self._render,
                refresh_per_second=REFRESH_PER_SECOND,
                transient=True,
                redirect_stdout=not self.console.stderr,  # stdout is for the document there
            )
            self._live.start()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _render(self) -> RenderableType:
        """Draw the live lines; called by the thread that refreshes them, so it looks at copies."""
        running, waiting = list(self.running.items()), list(self.waiting.items())
        table = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
        shown, bar = _layout(self.console.width, self._width, [p for _, p in running])
        for name, progress in running:
            table.add_row(self._head(self._spinner, name), *_cells(progress, shown, bar))
        others = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)  # whose texts are no bars
        for name, what in waiting[:MOST_WAITING]:
            mark = Text(MARKS["waits"], STYLES["waits"])
            text = Text(joined(what), "dim", no_wrap=True, overflow="ellipsis")
            others.add_row(self._head(mark, name), text)
        took = quantities.duration(time.monotonic() - self._began)
        grid = Table.grid()
        grid.add_row(table)
        grid.add_row(others)
        if len(waiting) > MOST_WAITING:
            grid.add_row(Text(f"{MARKS['waits']} and {len(waiting) - MOST_WAITING} more wait", "dim"))
        grid.add_row(Text(f"{self._ended_count} of {self._total} done, {took}", "dim"))
        return grid

    @property
    def _name_limit(self) -> int:
        """Cut names in the middle, so that figures have room."""
        return max(self.console.width * 3 // 10, 16)

    def _head(self, mark: RenderableType, name: str) -> Table:
        """Set mark and name as the lines that stay have them."""
        head = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
        head.add_row(mark, Text(f"{shorten(joined(name), self._name_limit):<{self._width}}", no_wrap=True))
        return head


def _layout(width: int, name_width: int, progresses: Sequence[Progress]) -> tuple[list[str], int]:
    """Choose the figures that fit a terminal, and the width of the bar that is left."""
    said = [_figures(p) for p in progresses]
    used = len("✓ ") + name_width + GAP + len(" 100%") + GAP
    shown = [name for name in WIDTHS if name == "left" or any(f[name] for f in said)]
    sizes = {name: max(WIDTHS[name], *(len(f[name]) for f in said)) + GAP for name in shown} if said else {}
    for name in DROPPED:
        if used + sum(sizes.values()) + BAR[0] - GAP <= width:
            break
        sizes.pop(name, None)
    bar = width - used - sum(sizes.values()) + GAP
    return list(sizes), min(max(bar, 4), BAR[1])


def _figures(progress: Progress) -> dict[str, str]:
    left = progress.seconds_left(time.time())
    shown = quantities.duration(progress.elapsed) if left is None else f"{quantities.duration(left)} left"
    return {
        "left": shown,
        "loss": progress.loss,
        "validation": progress.validation,
        "speed": progress.speed,
        "counted": progress.counted,
        "memory": progress.memory,
    }


def _cells(progress: Progress, shown: Sequence[str], bar: int) -> list[RenderableType]:
    share = progress.share
    total = None if share is None else 1.0
    line = ProgressBar(
        total, share or 0.0, width=bar, complete_style="cyan", finished_style="cyan", pulse_style="cyan"
    )
    figures = _figures(progress)
    head = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    head.add_row(line, Text(f"{'' if share is None else quantities.percent(share):>4}"))
    bright = ("left", "loss")
    return [
        head,
        *(
            Text(f"{figures[name]:<{WIDTHS[name]}}", "" if name in bright else "dim", no_wrap=True)
            for name in shown
        ),
    ]
