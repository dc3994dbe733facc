"""`dem build`: look ahead, plan, run, publish, show."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dem_build.cli.ending import conclude
from dem_build.cli.overlap import say_shared, shared_documents
from dem_build.cli.session import checked, open_session
from dem_build.cli.shared.sharing import Pushing
from dem_build.cli.view_lines import PlainListener
from dem_build.cli.view_plan import recipe_line
from dem_build.cli.view_results import (
    baseline_lines,
    closing_lines,
    remaining_warnings,
    result_table,
    say_lines,
    stage_lines,
)
from dem_build.cli.view_text import make_console, render_error, write_json
from dem_build.cli.watch import disavow, vouch
from dem_build.engine.interrupt import Interrupt
from dem_build.engine.outcome import recorded
from dem_build.errors import DemError, GateError, InterruptedBuildError, RecipeError, UsageError
from dem_build.recipe import is_local, project_folder, read_recipe
from dem_build.report.actions import lines_after_results, lines_before_results
from dem_build.report.documents import build_document, failure_document

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from rich.console import Console

    from dem_build.cli.ending import Ending
    from dem_build.cli.session import Call, Session
    from dem_build.engine.jobs.cluster import Cluster
    from dem_build.engine.outcome import Listener, Outcome
    from dem_build.recipe import Recipe
    from dem_build.report.gates import GateResult
    from dem_build.store.remote.leases import RemoteLeases

__all__ = ["GRAVITY", "build", "make_listener", "refuse_plan", "run_plan"]

MOST_RUNS = 4  # of one plan, each after damage that the one before it met at its end
# Of several recipes the gravest status is the call's: interrupted, wrong, failed, not up to date, a gate.
GRAVITY = (130, 2, 1, 4, 3, 0)


def build(recipes: Sequence[str], call: Call) -> int:
    """Build recipes one after another, none where one cannot be built; the gravest exit status is the call's."""
    if len(recipes) > 1 and (wrong := _refusals(recipes, call)):
        for error in wrong.values():
            render_error(error, make_console(stderr=True))
        unbuilt = UsageError(f"not built, as {', '.join(wrong)} cannot be")
        if call.as_json:
            write_json([failure_document(recipe, wrong.get(recipe, unbuilt)) for recipe in recipes])
        return min((error.exit_status for error in wrong.values()), key=GRAVITY.index)
    console = make_console(stderr=call.as_json)
    statuses: list[int] = []
    documents: list[dict[str, Any]] = []
    with Interrupt() as interrupt:
        for recipe in recipes:
            if len(recipes) > 1:
                recipe_line(recipe, console)
            if interrupt.count:
                status, document = _failed(recipe, InterruptedBuildError("not built: the call was stopped"))
            else:
                status, document = _build_one(recipe, call, console, interrupt)
            statuses.append(status)
            documents.append(document)
    if call.as_json:
        write_json(documents[0] if len(recipes) == 1 else documents)
    return min(statuses, key=GRAVITY.index)


# Several recipes: all that can be told of them is told before the first is built, and none is built then.


def _refusals(recipes: Sequence[str], call: Call) -> dict[str, DemError]:
    """Recipe → what stands against building it.

    A recipe may build on what an earlier one will publish: it does not miss that, and only its text is judged.
    """
    found: dict[str, DemError] = {}
    coming: list[Path] = []
    for named in recipes:
        recipe: Recipe | None = None
        try:
            recipe = read_recipe(Path(named), call.overrides)[0]
            if recipe is not None and _coming_names(recipe, coming):
                checked(named, call.overrides)  # there are no files yet to resolve and plan with
            else:
                session = open_session(named, call)
                session.require()
                if not session.plan.up_to_date:
                    refuse_plan(session)
        except RecipeError as error:
            # What is wrong with files that will be others by then is judged when they are there.
            later = () if recipe is None else tuple(f"{key}." for key in _coming_names(recipe, coming))
            if problems := [p for p in error.problems if not f"{p.key}.".startswith(later)]:
                found[named] = RecipeError(problems)
        except DemError as error:
            found[named] = error
        if recipe is not None:
            coming.append(project_folder(recipe.path) / "out" / recipe.name)
    return found


def _coming_names(recipe: Recipe, coming: Sequence[Path]) -> list[str]:
    """The keys of a recipe that name files in folders which earlier recipes will publish."""
    named = {"base.model": recipe.base.model}
    named |= {f"vectors.{name}": getattr(v, v.source) for name, v in recipe.vectors.items()}
    places = {key: recipe.resolve(model) for key, model in named.items() if is_local(model, recipe.folder)}
    return [key for key, place in places.items() if any(place.is_relative_to(folder) for folder in coming)]


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


def _build_one(named: str, call: Call, console: Console, interrupt: Interrupt) -> tuple[int, dict[str, Any]]:
    try:
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
                with make_listener(console) as listener:
                    session.sharing.console = listener.console
                    followed = listener if pusher is None else Pushing(listener, pusher)
                    outcome, ending = _run(session, followed, interrupt, leases)
                session.store.records.adopt()
                if session.plan.up_to_date:
                    vouch(session.fresh_until)
                status, document = _finish(session, outcome, ending, listener.shown, console)
            except DemError:
                if pusher is not None:  # what ended well is pushed, whatever ended badly
                    session.sharing.required = False  # the error that is told is the first one
                    session.sharing.finish(pusher, named)
                raise
            return status, document | ({} if pusher is None else session.sharing.finish(pusher, named))
    except KeyboardInterrupt:
        return _failed(named, InterruptedBuildError("stopped"))
    except DemError as error:
        return _failed(named, error)


def _failed(named: str, error: DemError) -> tuple[int, dict[str, Any]]:
    render_error(error, make_console(stderr=True))
    return error.exit_status, failure_document(named, error)


def make_listener(console: Console) -> PlainListener:
    """What follows a build on this console: live on a terminal, plain lines elsewhere.

    Use it as a context manager, so that the terminal is left as it was.
    """
    # The stream is asked, not rich: FORCE_COLOR makes rich call a log a terminal, which live lines would spoil.
    if not console.file.isatty() or console.is_dumb_terminal:
        return PlainListener(console)
    from dem_build.cli.view_live import LiveListener  # noqa: PLC0415  # a log needs none of it

    return LiveListener(console)


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

    refuse_plan(session)
    call = session.call
    options = Options(
        session.machine,
        keep_going=call.keep_going,
        no_train=call.no_train,
        rebuild=frozenset(call.rebuild),
        leases=leases,
        cluster=_cluster(session),
    )
    outcome = build_plan(session.plan, session.store, options, listener, interrupt)
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


def _finish(
    session: Session,
    outcome: Outcome,
    ending: Ending,
    shown: AbstractSet[tuple[str, str]],
    console: Console,
) -> tuple[int, dict[str, Any]]:
    results, gates = ending.results, ending.gates
    remaining_warnings(results, console, shown)
    say_shared(ending.shared, console)
    say_lines(lines_before_results(results), console)
    stage_lines(results.stages, console)
    baseline_lines(results.baselines, console)
    result_table(results, gates, console)
    say_lines(lines_after_results(results), console)
    closing_lines(outcome, results, ending.model, console, ending.report)
    document = build_document(session.named, outcome, ending.model, results, gates)
    document["overlap"] = shared_documents(ending.shared)
    error = _error(outcome, gates)
    if error is None:
        return 0, document
    return error.exit_status, document | {"error": failure_document(session.named, error)["error"]}


def _error(outcome: Outcome, gates: Sequence[GateResult]) -> DemError | None:
    """What decides the exit status: an interruption, a failure, what is to be trained first, a gate, in this order."""
    if outcome.interrupted:
        return InterruptedBuildError("stopped", hint="build again to go on from here")
    if outcome.failed:
        errors = [r.error or DemError("failed", where=r.action.name) for r in outcome.failed]
        return min(errors, key=lambda error: GRAVITY.index(error.exit_status))
    if lost := [g for g in gates if not g.passed]:
        return GateError(f"{len(lost)} of {sum(g.judged for g in gates)} gates failed")
    return None
