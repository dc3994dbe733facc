"""The lines that stay: what an action said, and what became of it. And the listener that prints nothing else."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from rich.text import Text

from dem_build.cli.view_plan import name_width, plan_table
from dem_build.cli.view_progress import Progress
from dem_build.cli.view_text import MARKS, STYLES, clean, hang, joined, say, shorten
from dem_build.plan import Status
from dem_build.report import quantities

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from dem_build.action import Action
    from dem_build.digest import JSON
    from dem_build.engine.outcome import Result
    from dem_build.plan import Plan, Verdict

__all__ = ["PlainListener"]

# Plain progress: each tenth, but no more often than this, and at least this often.
QUIET_SECONDS = 5.0
SILENT_SECONDS = 30.0
SAID = {"note": ("note", "dim"), "warning": ("warning", "yellow")}


class PlainListener:
    """Follows a build in lines that stay, for a log or a pipe: no control characters, sparse progress.

    A context manager, like the live one, so that a caller need not know which it has.

    Attributes:
        console: Where to.
        shown: (action, text) of the warnings and notes that were printed.
        running: Name → how far it is.
        waiting: Name → the other process that runs it.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.shown: set[tuple[str, str]] = set()
        self.running: dict[str, Progress] = {}
        self.waiting: dict[str, str] = {}
        self._known: set[str] = set()
        self._width = 0
        self._printed: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> Self:
        """Begin to follow."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""

    def build_started(self, plan: Plan) -> None:
        """Print what is due."""
        self._known = {v.action.name for v in plan.of(Status.HIT)}
        self._width = name_width(plan, self._name_limit)
        plan_table(plan, self.console, fold=True)

    def action_started(self, verdict: Verdict) -> None:
        """Print that an action started."""
        self._begin(verdict.action)
        self._line("run", verdict.action.name, "started")

    def action_event(self, action: Action, event: Mapping[str, JSON]) -> None:
        """Print what an action said, and now and then how far it is."""
        if event.get("event") in SAID:
            self._said(action, str(event["event"]), joined(event.get("message", "")))
        elif event.get("event") == "progress":
            progress = self.running.setdefault(action.name, Progress())
            progress.update(event)
            self._progressed(action.name, progress)

    def action_waits(self, action: Action, holder: str) -> None:
        """Print, once, that another process runs an action."""
        self.running.pop(action.name, None)
        if self.waiting.get(action.name) != holder:
            self.waiting[action.name] = holder
            self._line("waits", action.name, f"waiting: {joined(holder)}")

    def action_ended(self, result: Result) -> None:
        """Print what became of an action, unless that was known: recorded in the plan, or never started."""
        progress = self.running.pop(result.action.name, None)
        self.waiting.pop(result.action.name, None)
        self._printed.pop(result.action.name, None)
        recorded = result.status.value == "hit" and result.action.name in self._known
        never_begun = result.status.value == "skipped" and progress is None
        if not recorded and not never_begun:
            self._line(result.status.value, result.action.name, *_became(result, progress or Progress()))

    def stopping(self) -> None:
        """Print that running actions save their state."""
        text = "stopping: running actions save their state; Ctrl-C again ends them at once"
        say(self.console, (text, "yellow"))

    @property
    def _name_limit(self) -> int:
        """Width that names are cut to: a log keeps them whole, so that they can be searched for."""
        return sys.maxsize

    def _begin(self, action: Action) -> None:
        self.running[action.name] = Progress()
        self.waiting.pop(action.name, None)

    def _progressed(self, name: str, progress: Progress) -> None:
        """Print progress at each tenth, or after a long silence."""
        last, tenth = self._printed.setdefault(name, (progress.now, 0))
        reached = int(10 * (progress.share or 0.0) + 1e-9)
        silent = progress.now - last
        if silent < QUIET_SECONDS or (reached == tenth and silent < SILENT_SECONDS):
            return
        self._printed[name] = (progress.now, reached)
        share = "" if progress.share is None else quantities.percent(progress.share)
        left = progress.seconds_left(progress.now)
        more = "" if left is None else f"{quantities.duration(left)} left"
        parts = [
            progress.counted,
            progress.loss,
            progress.validation,
            progress.speed,
            progress.memory,
            more,
        ]
        self._line("pending", name, f"{share:<7}", *(p for p in parts if p))

    def _said(self, action: Action, event: str, message: str) -> None:
        if (action.name, message) not in self.shown:
            self.shown.add((action.name, message))
            word, style = SAID[event]
            say(self.console, (f"{word}: ", style), (f"{joined(action.name)}: ", "dim"), message)

    def _line(self, status: str, name: str, *parts: str | Text) -> None:
        shown = shorten(joined(name), self._name_limit)
        head = Text.assemble((f"{MARKS[status]} ", STYLES[status]), f"{shown:<{self._width}}")
        hang(self.console, head, Text("  ").join(Text() + part for part in parts))


def _became(result: Result, progress: Progress) -> list[str | Text]:
    """Return the parts of an ended action's line: how long, the last figures, the note."""
    status = result.status.value
    note = [Text(joined(result.note), "dim")] if result.note else []
    if status == "failed":
        return [_failure(result)]
    if status != "ran":
        return [*(note or [Text("recorded already" if status == "hit" else "skipped", "dim")])]
    progress.settle(result.record)
    figures = [
        Text(p, "dim") for p in (progress.loss, progress.validation, progress.speed, progress.memory) if p
    ]
    return [f"{quantities.duration(result.seconds):<7}", *figures, *note]


def _failure(result: Result) -> Text:
    text = Text.assemble((f"failed after {quantities.duration(result.seconds)}", "red"))
    error = result.error
    if error is not None:
        where = f"{error.where}: " if error.where not in (None, result.action.name) else ""
        text.append(f"\n{clean(where + error.what)}")
        if error.hint:
            text.append("\nhint: ", "bold cyan").append(clean(error.hint))
    return text
