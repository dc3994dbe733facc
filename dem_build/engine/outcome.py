"""What became of a build, and who listens while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.action import Action
    from dem_build.digest import JSON, Digest
    from dem_build.errors import DemError
    from dem_build.plan import Plan, Verdict
    from dem_build.store import Record


class Done(StrEnum):
    """What became of one action."""

    HIT = "hit"
    RAN = "ran"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Result:
    """One action of a build.

    Attributes:
        seconds: Wall time of this build's run; 0 for a hit.
        key: Its key, None while an input of it is unknown.
        record: What is recorded, None where it failed or was skipped.
        error: Why it failed.
        note: What else is to be said, such as "resumed" or "built by another process".
    """

    action: Action
    status: Done
    seconds: float = 0.0
    key: Digest | None = None
    record: Record | None = None
    error: DemError | None = None
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """All actions of a build, in the graph's order, and whether the user stopped it."""

    results: Mapping[str, Result] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def failed(self) -> list[Result]:
        """The actions that failed."""
        return [r for r in self.results.values() if r.status is Done.FAILED]

    def without(self, errors: Mapping[str, DemError]) -> Outcome:
        """Return this outcome where the actions of `errors` failed: what they made cannot be read."""
        failed = {
            name: replace(self.results[name], status=Done.FAILED, record=None, error=error)
            for name, error in errors.items()
        }
        return replace(self, results={**self.results, **failed})

    def after(self, earlier: Outcome) -> Outcome:
        """Return this outcome of a build's second run, where what its first one ran counts as run."""
        results = {
            name: before if result.status is Done.HIT and before.key == result.key else result
            for name, result in self.results.items()
            for before in [earlier.results[name]]
        }
        return replace(self, results=results)

    @property
    def records(self) -> dict[str, Record]:
        """Name → record, of every action that is recorded."""
        return {name: r.record for name, r in self.results.items() if r.record is not None}


def recorded(plan: Plan) -> Outcome:
    """The outcome of a plan that is up to date: nothing has to run."""
    return Outcome({name: hit(verdict) for name, verdict in plan.verdicts.items()})


def hit(verdict: Verdict) -> Result:
    """What becomes of an action that is recorded."""
    return Result(verdict.action, Done.HIT, 0.0, verdict.key, verdict.record)


class Listener(Protocol):
    """Follows a build. Calls come from one thread."""

    def build_started(self, plan: Plan) -> None:
        """The plan is made and nothing has run."""

    def action_started(self, verdict: Verdict, pid: int | None = None) -> None:
        """An action was given to a worker, whose process here is `pid`; None where a job runs it."""

    def action_event(self, action: Action, event: Mapping[str, JSON]) -> None:
        """An action said something: `progress`, `note` or `warning`, see `step.Context`; or there is something of it.

        That is `resumed` (from a `step`), or `queued` (`message`): how the job stands in which it has not begun, for
        who shows what is now.
        """

    def action_waits(self, action: Action, holder: str) -> None:
        """Another process is running this action; the build waits for its result."""

    def action_ended(self, result: Result) -> None:
        """An action was found recorded after all, ran, failed or was skipped."""

    def stopping(self) -> None:
        """The user asked to stop; running actions save their state."""
