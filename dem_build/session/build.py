"""A build of one recipe, whoever asked for it: refuse what cannot end well, run what is due, publish, push."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from dem_build.engine.outcome import Listener, recorded
from dem_build.errors import GRAVITY, DemError, GateError, InterruptedBuildError
from dem_build.session.ending import Ending, conclude
from dem_build.session.same_rows import TellingSameRows
from dem_build.session.session import open_session
from dem_build.session.sharing import Pushing, Voice
from dem_build.watch.watch import disavow, vouch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from dem_build.digest import JSON
    from dem_build.engine.interrupt import Interrupt
    from dem_build.engine.jobs.cluster import Cluster
    from dem_build.engine.outcome import Outcome
    from dem_build.session.session import Call, Session
    from dem_build.store.remote.leases import RemoteLeases

MOST_RUNS = 4  # of one plan, each after damage that the one before it met at its end


class Follower(Listener, Voice, Protocol):
    """Follows a build, and says what is of no action; entered while one runs, to leave a terminal as it was."""

    def __enter__(self) -> Self:
        """Begin to follow."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """End, whatever happened."""


@dataclass
class Built:
    """A build that has come to its end, well or not.

    Attributes:
        session: What was built, as it was planned.
        outcome: What became of each action.
        ending: Results, gates and the published model.
        pushed: What a document says of what was pushed, once that is done.
    """

    session: Session
    outcome: Outcome
    ending: Ending
    pushed: dict[str, JSON] = field(default_factory=dict)

    @property
    def error(self) -> DemError | None:
        """What went wrong: an interruption, a failure, what is to be trained first, a gate, in this order."""
        outcome, gates = self.outcome, self.ending.gates
        if outcome.interrupted:
            return InterruptedBuildError("stopped", hint="build again to go on from here")
        if outcome.failed:
            errors = [r.error or DemError("failed", where=r.action.name) for r in outcome.failed]
            return min(errors, key=lambda error: GRAVITY.index(error.exit_status))
        if lost := [g for g in gates if not g.passed]:
            return GateError(f"{len(lost)} of {sum(g.judged for g in gates)} gates failed")
        return None


@contextmanager
def building(named: str, call: Call, follower: Follower, interrupt: Interrupt) -> Iterator[Built]:
    """Build a recipe, and give what came of it before what was made is all pushed.

    Raises:
        DemError: It could not be begun, or ended; what failed while it ran is told by `Built.error`.
    """
    with ExitStack() as within:
        session = open_session(named, call, within)
        session.require()
        if not call.locked and not call.overrides:  # the lock is of the recipe as it is written
            session.save_lock()
        session.save_root()
        leases = None if session.plan.up_to_date else session.sharing.leases()
        if leases is not None:
            within.callback(leases.close)
        after = leases.release if leases is not None else lambda _: None
        pusher = session.sharing.pusher(session.store, after)
        try:
            with follower:
                session.sharing.voice = follower
                if session.elsewhere is not None:
                    follower.warn(session.elsewhere)
                followed = follower if pusher is None else Pushing(follower, pusher)
                built = Built(session, *_run(session, followed, interrupt, leases))
            session.store.records.adopt()
            if session.plan.up_to_date:
                vouch(session.fresh_until)
            yield built
        except DemError:
            if pusher is not None:  # what ended well is pushed, whatever ended badly
                session.sharing.required = False  # the error that is told is the first one
                session.sharing.finish(pusher, named)
            raise
        if pusher is not None:
            built.pushed = session.sharing.finish(pusher, named)


def refuse_plan(session: Session) -> None:
    """Refuse a build that cannot come to its end, as far as files, packages and memory tell it before it runs.

    Raises:
        DemError: It cannot.
    """
    from dem_build.engine.preflight import (  # noqa: PLC0415
        refuse_missing,
        refuse_too_many,
        refuse_unmergeable,
        refuse_unsharded,
    )
    from dem_build.estimate import refuse_unfit  # noqa: PLC0415  where nothing is due, nothing that runs it loads

    refuse_missing(session.plan, session.machine)
    refuse_unsharded(session.plan, session.machine)
    if not session.call.keep_going:  # else one vector's failure stops nothing else, and it fails by itself
        refuse_unmergeable(session.plan)
    if session.machine.engine == "local":  # else what counts is the memory of machines that nobody here sees
        refuse_too_many(session.plan)
        refuse_unfit(session.plan, session.machine)


def run_plan(
    session: Session,
    listener: Listener,
    interrupt: Interrupt,
    leases: RemoteLeases | None = None,
    *,
    rooted: bool = True,
) -> Outcome:
    """Run what is due of a session's plan.

    Args:
        session: The session.
        listener: Who follows.
        interrupt: Whether the user asked to stop.
        leases: What keeps machines that share a remote alone from doing one work twice.
        rooted: Record the keys that it used, as those of the recipe's last build.
    """
    listener.build_started(session.plan)
    if session.plan.up_to_date:
        return recorded(session.plan)
    disavow("something is due")
    # Where nothing is due, nothing that runs it is loaded.
    from dem_build.engine.build import Options  # noqa: PLC0415
    from dem_build.engine.build import build as build_plan  # noqa: PLC0415
    from dem_build.estimate import shared_memory  # noqa: PLC0415

    refuse_plan(session)
    call = session.call
    options = Options(
        session.machine,
        keep_going=call.keep_going,
        no_train=call.no_train,
        rebuild=frozenset(call.rebuild),
        leases=leases,
        cluster=_cluster(session),
        own_process=call.own_process,
        memory=shared_memory(session.plan, session.store, session.machine),
    )
    telling = TellingSameRows(listener, session.plan)
    outcome = build_plan(session.plan, session.store, options, telling, interrupt)
    if rooted:
        session.save_root(outcome)
    return outcome


def _cluster(session: Session) -> Cluster | None:
    """Where the actions of a session run, if not on this machine.

    Raises:
        UsageError: The machine file names no engine that there is, or one that cannot be used here.
    """
    machine = session.machine
    if machine.engine == "local":
        return None
    from dem_build.engine.jobs.cluster import Cluster, Needs  # noqa: PLC0415
    from dem_build.engine.jobs.scheduler import open_scheduler  # noqa: PLC0415
    from dem_build.estimate import estimates, on_gpu  # noqa: PLC0415

    scheduler = open_scheduler(machine)
    found = estimates(session.plan, session.store, machine)
    # Of what runs on a GPU the GPU's memory is estimated, which no scheduler deals out.
    own = not on_gpu(machine)
    needs = {e.name: Needs(e.memory if own else None, e.seconds) for e in found}
    return Cluster(scheduler, session.store, machine, needs)


def _run(
    session: Session, listener: Listener, interrupt: Interrupt, leases: RemoteLeases | None
) -> tuple[Outcome, Ending]:
    """Run a plan and read what the build ends with; where that is damaged, what made it runs again."""
    outcome, runs = run_plan(session, listener, interrupt, leases), 1
    while damaged := (ending := conclude(session, outcome)).damaged:
        again = session.planned_again()
        stuck = outcome.failed or outcome.interrupted or again.plan.up_to_date or runs == MOST_RUNS
        if stuck or interrupt.count:
            outcome = outcome.without(damaged)
            continue
        for name, error in damaged.items():
            event = {"event": "warning", "message": f"{error.what}; it is made again"}
            listener.action_event(session.plan.graph.actions[name], event)
        outcome, runs = run_plan(again, listener, interrupt, leases).after(outcome), runs + 1
    return outcome, ending
