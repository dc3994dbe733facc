"""`dem work`: one of any number of workers on one store, which runs what is due and no other has, and records it.

What the others do is known from the store: a record says that an action is done, a living lease that it runs.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.cli.stores import seconds
from dem_build.engine.interrupt import Interrupt
from dem_build.engine.outcome import Done, Outcome, recorded
from dem_build.errors import DemError, InterruptedBuildError, UsageError
from dem_build.graph import united
from dem_build.plan import History, make_plan
from dem_build.session.build import refuse_plan
from dem_build.session.session import open_session
from dem_build.session.sharing import Pushing
from dem_build.view.text import make_console, render_error
from dem_build.view.work import WorkEvents, WorkLines
from dem_build.watch.watch import disavow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dem_build.plan import Plan
    from dem_build.session.session import Call, Session

PAUSES = (5.0, 30.0, 60.0, 120.0)
"""Seconds before further attempts at a push: a worker's disk may be gone when it ends."""


def work(recipes: Sequence[str], until_idle: str, call: Call) -> int:
    """Run what is due of some recipes until all is recorded, or nothing was left to this worker for a while.

    Args:
        recipes: The recipes; their stores must be one.
        until_idle: How long others may have all that is left.
        call: The options.
    """
    listener = WorkEvents() if call.as_json else WorkLines(make_console())
    begun = time.monotonic()
    try:
        idle = seconds("--until-idle", until_idle)
        with Interrupt() as interrupt, ExitStack() as within:
            team = _Team.of(recipes, replace(call, pinned=True, keep_going=True), within)
            outcome = team.run(listener, interrupt, idle)
        error = _error(outcome)
    except KeyboardInterrupt:
        outcome, error = Outcome(interrupted=True), InterruptedBuildError("stopped")
    except DemError as raised:
        outcome, error = Outcome(), raised
    if error is not None:
        render_error(error, make_console(stderr=True))
    status = 0 if error is None else error.exit_status
    listener.ended(_counts(outcome), time.monotonic() - begun, status, error)
    return status


def _counts(outcome: Outcome) -> dict[str, int]:
    """How many actions this worker ran, found recorded, failed at, and left to others."""
    found = Counter(result.status for result in outcome.results.values())
    return {
        "ran": found[Done.RAN],
        "recorded": found[Done.HIT],
        "failed": found[Done.FAILED],
        "left": found[Done.SKIPPED],
    }


def _error(outcome: Outcome) -> DemError | None:
    """What decides the exit status: an interruption, then a failure; what others have is none."""
    if outcome.interrupted:
        return InterruptedBuildError("stopped", hint="start it again: it goes on from here")
    if outcome.failed:
        names = ", ".join(result.action.name for result in outcome.failed)
        return DemError(f"{len(outcome.failed)} of {len(outcome.results)} actions failed: {names}")
    return None


@dataclass(frozen=True)
class _Team:
    """The sessions of a worker's recipes, by what tells their actions apart, and the plan of all."""

    sessions: Mapping[str, Session]
    plan: Plan

    @classmethod
    def of(cls, recipes: Sequence[str], call: Call, within: ExitStack) -> _Team:
        """Load, resolve and plan the recipes, each once.

        Raises:
            DemError: One cannot be run, or they have several stores.
        """
        named = {Path(recipe).resolve(): recipe for recipe in recipes}.values()
        found = [_here(open_session(recipe, call, within)) for recipe in named]
        first = found[0]
        for session in found:
            if session.store.root != first.store.root:
                what = f"its store is {session.store.root}, and that of {first.named} {first.store.root}"
                hint = "a worker has one store: --cache says which, or start one for each"
                raise UsageError(what, where=session.named, hint=hint)
            session.require_lock()
            session.require_trust()
            session.save_root(signed=False)  # a worker publishes nothing
        if len(found) == 1:
            return cls({"": first}, first.plan)
        sessions = dict(zip(_labels([(s.recipe.name, s.named) for s in found]), found, strict=True))
        graph = united({label: session.plan.graph for label, session in sessions.items()})
        return cls(sessions, make_plan(graph, first.store.records, History()))

    def run(self, listener: WorkLines | WorkEvents, interrupt: Interrupt, idle: float) -> Outcome:
        """Run what is due, and push it where the machine file says so."""
        from dem_build.engine.build import Options, build  # noqa: PLC0415  help waits for nothing that runs
        from dem_build.estimate import shared_memory  # noqa: PLC0415

        disavow("it runs for long")
        listener.build_started(self.plan)
        if self.plan.up_to_date:
            return recorded(self.plan)
        for session in self.sessions.values():
            if not session.plan.up_to_date:
                refuse_plan(session)
        first = next(iter(self.sessions.values()))
        leases = first.sharing.leases()
        pusher = first.sharing.pusher(first.store, leases.release if leases is not None else lambda _: None)
        follower = listener if pusher is None else Pushing(listener, pusher)
        memory = shared_memory(self.plan, first.store, first.machine)
        options = Options(first.machine, keep_going=True, until_idle=idle, leases=leases, memory=memory)
        with ExitStack() as ending:
            if leases is not None:
                ending.callback(leases.close)
            if pusher is not None:
                ending.callback(first.sharing.finish, pusher, first.named, PAUSES)
            ending.callback(first.store.records.adopt)
            outcome = build(self.plan, first.store, options, follower, interrupt)
        for label, session in self.sessions.items():
            session.save_root(_part(outcome, session, label), signed=False)
        return outcome


def _labels(recipes: Sequence[tuple[str, str]]) -> list[str]:
    """What tells the actions of recipes apart: a recipe's name, or where several have it, how the user named it."""
    names = Counter(name for name, _ in recipes)
    found: list[str] = []
    for name, named in recipes:
        label = name if names[name] == 1 else named.replace("/", "-")
        while label in found:  # `a/b.toml` and `a-b.toml`
            label += "+"
        found.append(label)
    return found


def _here(session: Session) -> Session:
    """A session whose actions run on this machine: a worker may itself be a scheduler's job, and submits none."""
    return replace(session, machine=session.machine.model_copy(update={"engine": "local"}))


def _part(outcome: Outcome, session: Session, label: str) -> Outcome:
    """What became of the actions of one recipe, under the names that it has for them."""
    end = f"@{label}" if label else ""
    return replace(outcome, results={n: outcome.results[f"{n}{end}"] for n in session.plan.graph.actions})
