"""Follows a build in lines that stay: what an action said, how far it is, and what became of it."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from rich.text import Text

from dem_build.json_text import number
from dem_build.plan import Status
from dem_build.report import quantities
from dem_build.report.text import clean, joined
from dem_build.view.plan import name_width, plan_table
from dem_build.view.text import MARKS, STYLES, hang, say, say_warning, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from dem_build.action import Action
    from dem_build.digest import JSON
    from dem_build.engine.outcome import Result
    from dem_build.plan import Plan, Verdict
    from dem_build.store import Record

# A rate from less than this is a guess that jumps.
SETTLED_SECONDS = 2.0
# Plain progress: each tenth, but no more often than this, and at least this often.
QUIET_SECONDS = 5.0
SILENT_SECONDS = 30.0
SAID = {"note": ("note", "dim"), "warning": ("warning", "yellow")}


class PlainListener:
    """Follows a build in lines that stay, for a log or a pipe: no control characters, sparse progress.

    A context manager, like the live one, so that a caller need not know which it has.

    Attributes:
        shown: (action, text) of the warnings and notes that were printed.
        stamp: What each line begins with, as `strftime` takes it.
        running: Name → how far it is.
        waiting: Name → the other process that runs it.
    """

    stamp = ""

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

    def action_started(self, verdict: Verdict, pid: int | None = None) -> None:
        """Print that an action started."""
        del pid  # there is one build on this screen
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
        elif event.get("event") == "resumed":
            self._said(action, "note", f"goes on from step {joined(event.get('step', ''))} of an earlier run")

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

    def warn(self, text: str) -> None:
        """Print what may be wrong, of no action."""
        say_warning(text, self.console)

    def tell(self, text: str) -> None:
        """Print what goes on, of no action."""
        say(self.console, (clean(text), "dim"))

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
            when = (time.strftime(self.stamp), "dim")
            say(self.console, when, (f"{word}: ", style), (f"{joined(action.name)}: ", "dim"), message)

    def _line(self, status: str, name: str, *parts: str | Text) -> None:
        shown = shorten(joined(name), self._name_limit)
        mark = (f"{MARKS[status]} ", STYLES[status])
        head = Text.assemble((time.strftime(self.stamp), "dim"), mark, f"{shown:<{self._width}}")
        hang(self.console, head, Text("  ").join(Text() + part for part in parts))


def _became(result: Result, progress: Progress) -> list[str | Text]:
    """The parts of an ended action's line: how long, the last figures, the note."""
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


@dataclass
class Progress:
    """The state of one running action.

    Attributes:
        started: When it was given to a worker, in seconds of the epoch.
        done: Units done, None before the first `progress` event.
        total: Units in all; 0 where that is unknown.
        figures: The other numbers of the events, the newest of each: `loss`, `validation_loss`, `tokens_per_second`,
            `memory`.
    """

    started: float = field(default_factory=time.time)
    done: float | None = None
    total: float = 0.0
    unit: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    now: float = 0.0
    _first: tuple[float, float] = (0.0, 0.0)

    def update(self, event: Mapping[str, JSON]) -> None:
        """Take in a `progress` event."""
        self.now = number(event.get("time")) or time.time()
        done, total = number(event.get("done")) or 0.0, number(event.get("total")) or 0.0
        unit = joined(event.get("unit", ""))
        if self.done is None or (total, unit) != (self.total, self.unit) or done < self.done:
            # Another phase, or what a resumed action began with: neither says how fast this one is.
            self._first = (self.now, done)
        self.done, self.total, self.unit = done, total, unit
        for name, value in event.items():
            figure = number(value)
            if name not in ("time", "done", "total") and figure is not None:
                self.figures[name] = figure

    def settle(self, record: Record | None) -> None:
        """Put the figures of the whole run, as its record has them, in place of those of a moment.

        Of a training these are the rate over all its steps, the most memory that it took, and the validation loss of
        the weights that it kept. Figures that the run itself never told stay away.
        """
        if record is None:
            return
        seconds, tokens = record.amount("device_seconds"), record.amount("tokens", "seen")
        kept, lowest = (record.amount("validation", *of) for of in (("kept_step",), ("lowest", "step")))
        whole = {
            "tokens_per_second": tokens / seconds if tokens is not None and seconds else None,
            "memory": record.amount("peak_memory"),
            "validation_loss": record.amount("validation", "lowest", "loss") if kept == lowest else None,
        }
        self.figures |= {name: v for name, v in whole.items() if v is not None and name in self.figures}

    @property
    def elapsed(self) -> float:
        """Seconds since it was given to a worker."""
        return max(time.time() - self.started, 0.0)

    @property
    def share(self) -> float | None:
        """Share of 1 that is done, None while it is unknown."""
        if self.done is None or self.total <= 0:
            return None
        return min(max(self.done / self.total, 0.0), 1.0)

    def seconds_left(self, now: float | None = None) -> float | None:
        """Seconds left at the rate so far, None until that has settled."""
        since, first = self._first
        if self.done is None or self.done <= first or self.now - since < SETTLED_SECONDS:
            return None
        if self.done >= self.total > 0:
            return None
        left = (self.total - self.done) * (self.now - since) / (self.done - first)
        passed = max((self.now if now is None else now) - self.now, 0.0)
        return max(left - passed, 0.0) if self.total > 0 else None

    @property
    def counted(self) -> str:
        """The units: `16/40 steps`."""
        if self.done is None:
            return ""
        of_total = f"/{quantities.count(self.total)}" if self.total > 0 else ""
        return f"{quantities.count(self.done)}{of_total} {self.unit}".rstrip()

    @property
    def loss(self) -> str:
        """The latest loss: `loss 1.234`."""
        return f"loss {quantities.decimals(self.figures['loss'])}" if "loss" in self.figures else ""

    @property
    def validation(self) -> str:
        """The latest validation loss of a training: `val 1.234`."""
        loss = self.figures.get("validation_loss")
        return "" if loss is None else f"val {quantities.decimals(loss)}"

    @property
    def speed(self) -> str:
        """The rate: `185 tokens/s`."""
        rate = self.figures.get("tokens_per_second")
        return "" if rate is None or not math.isfinite(rate) else f"{quantities.count(rate)} tok/s"

    @property
    def memory(self) -> str:
        """The memory it takes: `3.1 GB`."""
        octets = self.figures.get("memory")
        return "" if octets is None else quantities.size(octets)
