"""`dem build`: plan, run, publish, show."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dem_build import __version__
from dem_build.cli import view
from dem_build.cli.overlap import say_shared
from dem_build.cli.session import open_session
from dem_build.errors import DemError, GateError, InterruptedBuildError
from dem_build.execute.interrupt import Interrupt
from dem_build.execute.options import Options
from dem_build.execute.outcome import recorded
from dem_build.execute.publish import destination, publish
from dem_build.report.card import card
from dem_build.report.documents import build_document, failure_document, results_document
from dem_build.report.gates import check
from dem_build.report.results import collect
from dem_build.report.summary import summary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from rich.console import Console

    from dem_build.cli.session import Call, Session
    from dem_build.execute.outcome import Listener, Outcome
    from dem_build.report.gates import GateResult
    from dem_build.report.results import Results

__all__ = ["Flags", "build_all", "run_plan"]

# Of several recipes the gravest status is the call's: interrupted, wrong, failed, not up to date, a gate.
GRAVITY = (130, 2, 1, 4, 3, 0)


@dataclass(frozen=True)
class Flags:
    """The switches of `dem build`."""

    locked: bool = False
    no_train: bool = False
    keep_going: bool = False
    trust_tasks: bool = False
    jobs: int | None = None
    as_json: bool = False


def build_all(recipes: Sequence[str], call: Call, flags: Flags) -> int:
    """Build recipes one after another and return the gravest exit status."""
    console = view.make_console(stderr=flags.as_json)
    statuses: list[int] = []
    documents: list[dict[str, Any]] = []
    with Interrupt() as interrupt:
        for recipe in recipes:
            if interrupt.count:
                break
            status, document = _build_one(recipe, call, flags, console, interrupt)
            statuses.append(status)
            documents.append(document)
    if flags.as_json:
        sys.stdout.write(
            json.dumps(documents[0] if len(recipes) == 1 else documents, ensure_ascii=False) + "\n"
        )
    return min(statuses, key=GRAVITY.index, default=InterruptedBuildError.exit_status)


def _build_one(
    named: str, call: Call, flags: Flags, console: Console, interrupt: Interrupt
) -> tuple[int, dict[str, Any]]:
    try:
        session = _prepared(named, call, flags)
        with view.make_listener(console) as listener:
            outcome = run_plan(session, _options(session, call, flags), listener, interrupt)
        return _finish(session, outcome, listener.shown, console)
    except KeyboardInterrupt:
        return _failed(named, InterruptedBuildError("stopped"))
    except DemError as error:
        return _failed(named, error)


def _failed(named: str, error: DemError) -> tuple[int, dict[str, Any]]:
    view.render_error(error, view.make_console(stderr=True))
    return error.exit_status, failure_document(named, error)


def _prepared(named: str, call: Call, flags: Flags) -> Session:
    session = open_session(named, call)
    if flags.locked:
        session.require_locked()
    if not flags.trust_tasks:
        session.require_trust()
    if not flags.locked:
        session.save_lock()
    session.save_root()
    return session


def run_plan(session: Session, options: Options, listener: Listener, interrupt: Interrupt) -> Outcome:
    """Run what is due of a session's plan, and record the keys that it used."""
    listener.build_started(session.plan)
    if session.plan.up_to_date:
        outcome = recorded(session.plan)
    else:
        from dem_build.execute.build import build  # noqa: PLC0415  where nothing is due, nothing that runs it loads

        outcome = build(session.plan, session.store, options, listener, interrupt)
    session.save_root(outcome)
    return outcome


def _finish(
    session: Session, outcome: Outcome, shown: AbstractSet[tuple[str, str]], console: Console
) -> tuple[int, dict[str, Any]]:
    results = collect(session.plan.graph, outcome.records, session.store.read_bytes)
    done = not outcome.failed and not outcome.interrupted
    gates = check(session.recipe.gates, results) if done and session.whole else []
    model = _publish(session, outcome, results, gates) if done and "model" in outcome.records else None
    view.remaining_warnings(results, console, shown)
    say_shared(session.store, outcome, console)
    view.result_table(results, gates, console)
    view.closing_lines(outcome, results, model, console)
    document = build_document(session.named, outcome, model, results, gates)
    error = _error(outcome, gates)
    if error is None:
        return 0, document
    return error.exit_status, document | {"error": failure_document(session.named, error)["error"]}


def _options(session: Session, call: Call, flags: Flags) -> Options:
    return Options(
        machine=session.machine,
        jobs=flags.jobs,
        keep_going=flags.keep_going,
        no_train=flags.no_train,
        rebuild=frozenset(call.rebuild),
    )


def _publish(session: Session, outcome: Outcome, results: Results, gates: Sequence[GateResult]) -> Path:
    to = destination(session.out, session.recipe.name, session.recipe.path, session.id)
    graph, records = session.plan.graph, outcome.records
    lasting = results_document(results, gates)
    texts = {
        "model/README.md": card(session.recipe, graph, records, results, {"dem": __version__}),
    }
    if session.whole:  # some of the recipe's actions tell less than the last whole build did
        texts["results.json"] = json.dumps(lasting, indent=2, ensure_ascii=False) + "\n"
        texts["summary.md"] = summary(session.recipe.name, outcome, results, gates)
    assert results.model_digest is not None
    publish(to, records["model"], results.model_digest, session.store, texts)
    return to.model


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
