"""`dem build`: plan, run, publish, show."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dem_build.cli import view
from dem_build.cli.ending import conclude
from dem_build.cli.overlap import say_shared, shared_documents
from dem_build.cli.preflight import refusals, refuse_plan
from dem_build.cli.session import open_session
from dem_build.cli.watch import disavow, vouch
from dem_build.engine.interrupt import Interrupt
from dem_build.engine.options import Options
from dem_build.engine.outcome import recorded
from dem_build.errors import DemError, GateError, InterruptedBuildError, UsageError
from dem_build.report.actions import lines_after_results, lines_before_results
from dem_build.report.documents import build_document, failure_document

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from rich.console import Console

    from dem_build.cli.call import Call
    from dem_build.cli.ending import Ending
    from dem_build.cli.session import Session
    from dem_build.engine.outcome import Listener, Outcome
    from dem_build.report.gates import GateResult

__all__ = ["Flags", "build_all", "run_plan"]

MOST_RUNS = 4  # of one plan, each after damage that the one before it met at its end
# Of several recipes the gravest status is the call's: interrupted, wrong, failed, not up to date, a gate.
GRAVITY = (130, 2, 1, 4, 3, 0)


@dataclass(frozen=True)
class Flags:
    """The switches of `dem build`."""

    no_train: bool = False
    keep_going: bool = False
    trust_tasks: bool = False
    jobs: int | None = None
    as_json: bool = False


def build_all(recipes: Sequence[str], call: Call, flags: Flags) -> int:
    """Build recipes one after another, none where one cannot be built, and return the gravest exit status."""
    if len(recipes) > 1 and (wrong := _refusals(recipes, call, flags)):
        return _refuse(recipes, wrong, as_json=flags.as_json)
    console = view.make_console(stderr=flags.as_json)
    statuses: list[int] = []
    documents: list[dict[str, Any]] = []
    with Interrupt() as interrupt:
        for recipe in recipes:
            if len(recipes) > 1:
                view.recipe_line(recipe, console)
            if interrupt.count:
                status, document = _failed(recipe, InterruptedBuildError("not built: the call was stopped"))
            else:
                status, document = _build_one(recipe, call, flags, console, interrupt)
            statuses.append(status)
            documents.append(document)
    if flags.as_json:
        sys.stdout.write(json.dumps(documents[0] if len(recipes) == 1 else documents) + "\n")
    return min(statuses, key=GRAVITY.index)


def _refusals(recipes: Sequence[str], call: Call, flags: Flags) -> dict[str, DemError]:
    return refusals(recipes, call, trust_tasks=flags.trust_tasks, keep_going=flags.keep_going)


def _refuse(recipes: Sequence[str], wrong: Mapping[str, DemError], *, as_json: bool) -> int:
    """Say what is wrong; the recipes in which nothing is are not built either."""
    for error in wrong.values():
        view.render_error(error, view.make_console(stderr=True))
    unbuilt = UsageError(f"not built, as {', '.join(wrong)} cannot be")
    if as_json:
        sys.stdout.write(json.dumps([failure_document(r, wrong.get(r, unbuilt)) for r in recipes]) + "\n")
    return min((error.exit_status for error in wrong.values()), key=GRAVITY.index)


def _build_one(
    named: str, call: Call, flags: Flags, console: Console, interrupt: Interrupt
) -> tuple[int, dict[str, Any]]:
    try:
        with ExitStack() as within:
            session = _prepared(named, call, flags, within)
            with view.make_listener(console) as listener:
                outcome, ending = _run(session, _options(session, call, flags), listener, interrupt)
            if session.plan.up_to_date:
                vouch(session.fresh_until)
            return _finish(session, outcome, ending, listener.shown, console)
    except KeyboardInterrupt:
        return _failed(named, InterruptedBuildError("stopped"))
    except DemError as error:
        return _failed(named, error)


def _failed(named: str, error: DemError) -> tuple[int, dict[str, Any]]:
    view.render_error(error, view.make_console(stderr=True))
    return error.exit_status, failure_document(named, error)


def _prepared(named: str, call: Call, flags: Flags, within: ExitStack) -> Session:
    session = open_session(named, call, within)
    if call.locked:
        session.require_locked(call)
    if not flags.trust_tasks:
        session.require_trust()
    session.destination()  # where nothing can be published, nothing is trained first
    if not call.locked and not call.overrides:  # the lock is of the recipe as it is written
        session.save_lock()
    session.save_root()
    return session


def run_plan(session: Session, options: Options, listener: Listener, interrupt: Interrupt) -> Outcome:
    """Run what is due of a session's plan, and record the keys that it used."""
    listener.build_started(session.plan)
    if session.plan.up_to_date:
        return recorded(session.plan)
    disavow("something is due")
    from dem_build.engine.build import build  # noqa: PLC0415  where nothing is due, nothing that runs it loads

    refuse_plan(session, keep_going=options.keep_going)
    outcome = build(session.plan, session.store, options, listener, interrupt)
    session.save_root(outcome)
    return outcome


def _run(
    session: Session, options: Options, listener: Listener, interrupt: Interrupt
) -> tuple[Outcome, Ending]:
    """Run a plan and read what the build ends with; where that is damaged, what made it runs again."""
    outcome, runs = run_plan(session, options, listener, interrupt), 1
    while damaged := (ending := conclude(session, outcome)).damaged:
        again = session.planned_again()
        stuck = outcome.failed or outcome.interrupted or again.plan.up_to_date or runs == MOST_RUNS
        if stuck or interrupt.count:
            outcome = outcome.without(damaged)
            continue
        for name, error in damaged.items():
            event = {"event": "warning", "message": f"{error.what}; it is made again"}
            listener.action_event(session.plan.graph.actions[name], event)
        second = run_plan(again, replace(options, rebuild=frozenset()), listener, interrupt)
        outcome, runs = second.after(outcome), runs + 1
    return outcome, ending


def _finish(
    session: Session,
    outcome: Outcome,
    ending: Ending,
    shown: AbstractSet[tuple[str, str]],
    console: Console,
) -> tuple[int, dict[str, Any]]:
    results, gates = ending.results, ending.gates
    view.remaining_warnings(results, console, shown)
    say_shared(ending.shared, console)
    view.say_lines(lines_before_results(results), console)
    view.baseline_lines(results.baselines, console)
    view.result_table(results, gates, console)
    view.say_lines(lines_after_results(results), console)
    view.closing_lines(outcome, results, ending.model, console, ending.report)
    document = build_document(session.named, outcome, ending.model, results, gates)
    document["overlap"] = shared_documents(ending.shared)
    error = _error(outcome, gates)
    if error is None:
        return 0, document
    return error.exit_status, document | {"error": failure_document(session.named, error)["error"]}


def _options(session: Session, call: Call, flags: Flags) -> Options:
    machine = session.machine
    return Options(
        machine=machine if flags.jobs is None else machine.model_copy(update={"jobs": flags.jobs}),
        keep_going=flags.keep_going,
        no_train=flags.no_train,
        rebuild=frozenset(call.rebuild),
    )


def _error(outcome: Outcome, gates: Sequence[GateResult]) -> DemError | None:
    """Return what decides the exit status: an interruption, a failure, a gate, in this order."""
    if outcome.interrupted:
        return InterruptedBuildError("stopped", hint="build again to go on from here")
    if outcome.failed:
        first = outcome.failed[0]
        return first.error or DemError("failed", where=first.action.name)
    if lost := [g for g in gates if not g.passed]:
        return GateError(f"{len(lost)} of {len(gates)} gates failed")
    return None
