"""What a worker tells: a line an event, in words or in JSON."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from dem_build.plan import Status
from dem_build.report.documents import failure_document
from dem_build.report.quantities import duration
from dem_build.view.lines import PlainListener
from dem_build.view.plan import name_width
from dem_build.view.text import say, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.action import Action
    from dem_build.digest import JSON
    from dem_build.engine.outcome import Result
    from dem_build.errors import DemError
    from dem_build.plan import Plan, Verdict
    from dem_build.view.lines import Progress


class WorkLines(PlainListener):
    """Follows a worker in lines that say when; how far an action is they leave to its event file."""

    stamp = "%H:%M:%S "

    def build_started(self, plan: Plan) -> None:
        """Say who works, and how much there is to do."""
        self._known = {v.action.name for v in plan.of(Status.HIT)}
        self._width = name_width(plan, self._name_limit)
        due = len(plan.verdicts) - len(self._known)
        text = f"worker {os.getpid()} on {os.uname().nodename}: {len(plan.verdicts)} actions, {due} due"
        say(self.console, (time.strftime(self.stamp), "dim"), text)

    def action_started(self, verdict: Verdict, pid: int | None = None) -> None:
        """Say that an action started, and in which process: others are told that one has it."""
        self._begin(verdict.action)
        self._line("run", verdict.action.name, "started" if pid is None else f"started in process {pid}")

    def _progressed(self, name: str, progress: Progress) -> None:
        """Say nothing of it."""

    def ended(self, counts: Mapping[str, int], took: float, status: int, error: DemError | None) -> None:
        """Say what became of all of it, unless nothing was begun."""
        del status, error  # an error was told
        if any(counts.values()):
            text = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
            whole = not counts["failed"] and not counts["left"]
            more = "; all is recorded, and `dem build` publishes it" if whole else ""
            say(self.console, (time.strftime(self.stamp), "dim"), f"{text}; {duration(took)}{more}")


class WorkEvents:
    """Follows a worker as JSON lines on stdout.

    Each has `event`: `began`, `started`, `resumed`, `waits`, `note`, `warning`, `ended`, `stopping` or `end`.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, str] = {}

    def build_started(self, plan: Plan) -> None:
        """Write who works, and how much there is to do."""
        due = len(plan.verdicts) - len(plan.of(Status.HIT))
        _write("began", host=os.uname().nodename, pid=os.getpid(), actions=len(plan.verdicts), due=due)

    def action_started(self, verdict: Verdict, pid: int | None = None) -> None:
        """Write that an action started, and in which process."""
        _write("started", action=verdict.action.name, key=verdict.key, pid=pid)

    def action_event(self, action: Action, event: Mapping[str, JSON]) -> None:
        """Write what an action said, but for how far it is: its event file tells that."""
        if event.get("event") in ("note", "warning"):
            _write(str(event["event"]), action=action.name, message=event.get("message"))
        elif event.get("event") == "resumed":
            _write("resumed", action=action.name, step=event.get("step"))

    def action_waits(self, action: Action, holder: str) -> None:
        """Write, once, that another process runs an action."""
        if self._waiting.get(action.name) != holder:
            self._waiting[action.name] = holder
            _write("waits", action=action.name, holder=holder)

    def action_ended(self, result: Result) -> None:
        """Write what became of an action."""
        error = None if result.error is None else failure_document("", result.error)["error"]
        _write(
            "ended",
            action=result.action.name,
            key=result.key,
            status=result.status.value,
            seconds=round(result.seconds, 3),
            note=result.note or None,
            error=error,
        )

    def stopping(self) -> None:
        """Write that running actions save their state."""
        _write("stopping")

    def ended(self, counts: Mapping[str, int], took: float, status: int, error: DemError | None) -> None:
        """Write what became of all of it."""
        told = None if error is None else failure_document("", error)["error"]
        _write("end", **counts, seconds=round(took, 3), status=status, error=told)


def _write(event: str, **fields: JSON) -> None:
    told = {name: value for name, value in fields.items() if value is not None}
    write_json({"event": event, "time": round(time.time(), 3), **told})
    sys.stdout.flush()
